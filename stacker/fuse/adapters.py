"""The FUSE adapters: which one serves a tree, and how it is loaded.

A `ServedTree` comes in; a function that makes a `Service` of the merged tree goes out.  An adapter
is loaded only for a mount that uses it.  This module starts no process and mounts nothing:
`stacker.fuse.daemon` calls `Service.begin`, forks, and calls `Service.serve` in each worker.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Protocol

from stacker.errors import MountError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stacker.fuse.options import FuseAdapter, ServedTree
    from stacker.fuse.passthrough import Passthrough
    from stacker.tree.protocol import LowerTree

_MAX_WORKERS: Final = 4
PYFUSE3_HINT: Final = (
    "pip install 'stacker-rootfs[fuse]', which needs gcc, pkg-config and libfuse3-dev;"
    " or omit --fuse-adapter"
)


class Service(Protocol):
    """Answers requests about one tree; processes that are forked from each other share it."""

    def begin(self, connection: int) -> str | None:
        """Answer the kernel's INIT request, so that other requests are no longer blocked.

        :param connection: the descriptor of a connection that no process has read from.
        :returns: a note for the user.
        :raises OSError: the kernel's version of the protocol is not supported.
        """

    def serve(self, channel: int) -> None:
        """Answer requests until the mount is gone; `begin` has run, possibly before a fork.

        :param channel: the descriptor of the connection or of a clone; this method owns it.
        :raises Exception: any error except the end of the mount; another worker can continue.
        """


def worker_count(tree: ServedTree) -> int:
    """Return how many processes answer requests: one for a writable tree, which is not shared."""
    return min(_MAX_WORKERS, len(os.sched_getaffinity(0))) if tree.read_only else 1


def load_adapter(tree: ServedTree) -> Callable[[LowerTree], Service]:
    """Load the adapter that a tree's options name.

    :raises MountError: the adapter is not installed.
    """
    if tree.options.adapter == "pyfuse3":
        return _load_pyfuse3()
    if not tree.read_only:
        return _load_writable(tree)
    return _load_passthrough(tree) if tree.options.passthrough else _load_read_only(tree)


def _load_pyfuse3() -> Callable[[LowerTree], Service]:
    try:
        from stacker.fuse.libfuse import Pyfuse3Service
    except ImportError as error:
        raise MountError(f"cannot load pyfuse3: {error}", hint=PYFUSE3_HINT) from error
    return Pyfuse3Service


def _load_read_only(tree: ServedTree, note: str | None = None) -> Callable[[LowerTree], Service]:
    from stacker.fuse.channel import KernelService
    from stacker.fuse.prefetch import Prefetcher
    from stacker.fuse.read_only import ReadOnlyAdapter

    def serve(merged: LowerTree) -> Service:
        # A store into the page cache can block until another worker has answered a read.
        prefetcher = Prefetcher(merged) if worker_count(tree) > 1 else None
        passthrough = None if note else _automatic_passthrough(tree, merged)
        acls = _has_acls(tree, merged)  # once, and not in each worker
        dialect = None if tree.overlay is None else tree.whiteout_format
        return KernelService(
            lambda: ReadOnlyAdapter(merged, passthrough, prefetcher, acls=acls, dialect=dialect),
            passthrough,
            note=note,
        )

    return serve


def _automatic_passthrough(tree: ServedTree, merged: LowerTree) -> Passthrough | None:
    """Use passthrough for a tree of large files, unless an overlay on top would then fail."""
    from stacker.fuse.passthrough import (
        Passthrough,
        is_permitted,
        is_worthwhile,
        stack_depth,
    )

    if not (is_permitted() and is_worthwhile(merged)) or stack_depth(tree.layers) > 1:
        return None
    return Passthrough(merged, 1)


def _load_passthrough(tree: ServedTree) -> Callable[[LowerTree], Service]:
    from stacker.fuse.channel import KernelService
    from stacker.fuse.passthrough import Passthrough, is_permitted, stack_depth
    from stacker.fuse.read_only import ReadOnlyAdapter

    if tree.merged is not None:
        note = "no passthrough: the files are parts of the layers' tars"
        return _load_read_only(tree, note)
    if not is_permitted():
        note = "no passthrough: it needs CAP_SYS_ADMIN in the initial user namespace"
        return _load_read_only(tree, note)
    depth = stack_depth(tree.layers)

    def serve(merged: LowerTree) -> Service:
        passthrough = Passthrough(merged, depth)
        acls = _has_acls(tree, merged)
        return KernelService(
            lambda: ReadOnlyAdapter(merged, passthrough, acls=acls),
            passthrough,
            unsupported_note="no passthrough: the kernel does not support it (Linux 6.9)",
        )

    return serve


def _has_acls(tree: ServedTree, merged: LowerTree) -> bool:
    """Return whether the kernel has to ask a read-only tree for POSIX ACLs."""
    return tree.options.has_acls and merged.has_acls


def _load_writable(tree: ServedTree) -> Callable[[LowerTree], Service]:
    import resource

    from stacker.fuse.channel import KernelService
    from stacker.fuse.mapped_owners import MappedOwnersAdapter
    from stacker.fuse.read_write import WritableAdapter
    from stacker.tree.writable import WritableTree

    upper, work = tree.upper, tree.work
    if upper is None or work is None:
        raise MountError(f"cannot mount by FUSE: {tree.target}: got no upper directory, want one")

    def serve(merged: LowerTree) -> Service:
        os.umask(0)  # the kernel or the tree applies the umask of the caller
        _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))  # for open, deleted files
        writable = WritableTree(
            *(merged, tree.whiteout_format, upper, work),
            durable=not tree.volatile,
            acls=tree.options.has_acls,
        )
        if tree.options.keeps_owners:
            adapter = WritableAdapter(writable)
        else:
            adapter = MappedOwnersAdapter(writable, tree.options)
        return KernelService(lambda: adapter)

    return serve


def is_installed(adapter: FuseAdapter) -> bool:
    """Return whether an adapter is installed, without loading it."""
    from importlib.util import find_spec  # only mounts by the FUSE driver get here

    return adapter == "kernel" or find_spec("pyfuse3") is not None
