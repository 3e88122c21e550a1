"""What the processes behind a FUSE mount run: an adapter, as something that answers a connection.

In comes an adapter's name, out goes what makes a :class:`Service` of a tree.  Knows no process and
no mount: `fuse_daemon` begins a service, forks, and lets each worker serve.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Protocol

from stacker.errors import MountError
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.tree.whiteout_dialects import ForeignDialect

if TYPE_CHECKING:
    from collections.abc import Callable

    from stacker.fuse.passthrough import Passthrough
    from stacker.mount.plan import FuseAdapter, Plan
    from stacker.tree.merged import MergedTree
    from stacker.tree.whiteout_dialects import WhiteoutDialect

_MOST_WORKERS: Final = 4
PYFUSE3_HINT: Final = (
    "pip install 'stacker-rootfs[fuse]', which needs gcc, pkg-config and libfuse3-dev;"
    " or leave --fuse-adapter away"
)


class Service(Protocol):
    """Answers requests about one tree; processes that are forked from each other share it."""

    def begin(self, connection: int) -> str | None:
        """Answer the kernel's first request, so that others wait no longer.

        :param connection: the descriptor of a connection that nobody has read from.
        :returns: what a person should know of what was agreed on, if anything.
        :raises OSError: this kernel cannot be answered.
        """

    def serve(self, channel: int) -> None:
        """Answer requests until the mount is gone; it was begun here, or before a fork.

        :param channel: the connection's descriptor or a clone of it, owned from now on.
        :raises Exception: anything but the mount's end; another process may go on.
        """


def workers(plan: Plan) -> int:
    """Say how many processes answer: one where there are writes, since there is one such tree."""
    return min(_MOST_WORKERS, len(os.sched_getaffinity(0))) if plan.read_only else 1


def service_of(plan: Plan) -> Callable[[MergedTree], Service]:
    """Load the adapter that a plan wants.

    :raises MountError: it needs what is not installed.
    """
    if plan.fuse_adapter == "pyfuse3":
        return _by_libfuse()
    if not plan.read_only:
        return _writing(plan)
    return _passing(plan) if plan.fuse_passthrough else _reading(plan)


def _by_libfuse() -> Callable[[MergedTree], Service]:
    try:
        from stacker.fuse.libfuse import Pyfuse3Service
    except ImportError as error:
        raise MountError(f"cannot load pyfuse3: {error}", hint=PYFUSE3_HINT) from error
    return Pyfuse3Service


def _reading(plan: Plan, note: str | None = None) -> Callable[[MergedTree], Service]:
    from stacker.fuse.channel import KernelService
    from stacker.fuse.prefetch import Ahead
    from stacker.fuse.read_only import Adapter

    def serve(tree: MergedTree) -> Service:
        # Whoever stores ahead may have to wait for what somebody else answers.
        ahead = Ahead(tree) if workers(plan) > 1 else None
        passthrough = None if note else _unasked(plan, tree)
        return KernelService(lambda: Adapter(tree, passthrough, ahead), passthrough, note=note)

    return serve


def _unasked(plan: Plan, tree: MergedTree) -> Passthrough | None:
    """Give a tree of large files to the kernel, unless that keeps overlays from lying on top."""
    from stacker.fuse.passthrough import Passthrough, depth_over, is_permitted, is_worth_it

    if not (is_permitted() and is_worth_it(tree)) or depth_over(plan.layers) > 1:
        return None
    return Passthrough(tree, 1)


def _passing(plan: Plan) -> Callable[[MergedTree], Service]:
    from stacker.fuse.channel import KernelService
    from stacker.fuse.passthrough import Passthrough, depth_over, is_permitted
    from stacker.fuse.read_only import Adapter

    if not is_permitted():
        return _reading(plan, "no passthrough: only root of the machine may, with CAP_SYS_ADMIN")
    depth = depth_over(plan.layers)

    def serve(tree: MergedTree) -> Service:
        passthrough = Passthrough(tree, depth)
        without = "no passthrough: this kernel has none (Linux 6.9)"
        return KernelService(lambda: Adapter(tree, passthrough), passthrough, without=without)

    return serve


def _writing(plan: Plan) -> Callable[[MergedTree], Service]:
    """Give what serves a tree with writes: one adapter, since there is one such tree."""
    import resource

    from stacker.fuse.channel import KernelService
    from stacker.fuse.mapped_owners import MappedAdapter
    from stacker.fuse.read_write import WritableAdapter
    from stacker.tree.writable import WritableTree

    upper, work = plan.upper, plan.work
    if upper is None or work is None:
        raise MountError(f"cannot mount by FUSE: {plan.target}: got no upper directory, want one")
    form, guise = form_of(plan), plan.guise

    def serve(tree: MergedTree) -> Service:
        os.umask(0)  # modes come as they shall be
        _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))  # for open files without a name
        writable = WritableTree(tree, form, upper, work, durable=not plan.volatile)
        if guise is None or guise.owners_as_they_are:
            adapter = WritableAdapter(writable)
        else:
            adapter = MappedAdapter(writable, guise)
        return KernelService(lambda: adapter)

    return serve


def form_of(plan: Plan) -> WhiteoutDialect:
    """Say how deletions are read and written in the directories of a plan."""
    written = WhiteoutFormat(plan.xattr_namespace)
    return ForeignDialect(written) if plan.foreign else written


def is_installed(adapter: FuseAdapter) -> bool:
    """Say whether there is what an adapter needs, without loading it."""
    from importlib.util import find_spec  # no mount by another driver asks

    return adapter == "kernel" or find_spec("pyfuse3") is not None
