"""The driver of a bundle whose OCI runtime makes the mount, from the ``mounts`` of config.json.

A plan comes in, and its directories are reserved for the runtime; nothing is mounted.  The record
keeps the layers in the store, and the target's inode identifies it as it does for a copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stacker.errors import MountError, UnsupportedError
from stacker.linux import mountinfo, process
from stacker.mount.drivers.overlay import OverlayDriver, detached
from stacker.mount.drivers.protocol import Mounted
from stacker.mount.plan import source_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stacker.errors import StackerError
    from stacker.mount.plan import Plan
    from stacker.mount.record import MountRecord

NAME: Final = "runtime"
_PAGE_LIMIT = 4095  # mount(2) copies a page of options


class RuntimeDriver:
    """An overlay that an OCI runtime mounts when it starts the container."""

    name = NAME

    def refusal(self, plan: Plan) -> StackerError | None:
        """Return why a runtime cannot make the mount: an index, or too many layers."""
        if plan.merged is not None:
            return UnsupportedError(
                f"a runtime cannot mount an index: {plan.target}: the layers have the form erofs",
                hint="omit --no-mount, or `stacker convert --form tree` the image",
            )
        if (length := len(",".join(runtime_options(plan)))) > _PAGE_LIMIT:
            return UnsupportedError(
                f"too many layers for a runtime: {plan.target}: got {length} bytes of mount"
                f" options, want at most {_PAGE_LIMIT}",
                hint="omit --no-mount",
            )
        refusal = OverlayDriver().refusal(plan)
        if refusal is not None:
            refusal.hint = "run as root, or omit --no-mount"
        return refusal

    def mount(self, plan: Plan) -> Mounted:
        """Mount nothing."""
        return Mounted(self.name, note=f"the runtime mounts {plan.target}")

    def unmount(self, record: MountRecord, *, lazy: bool = False) -> None:
        """Require that no container uses the mount.

        :raises MountError: a container has it; with `lazy`, its directories are removed anyway.
        """
        user = next(_containers(record), None)
        if user is not None and not lazy:
            raise MountError(
                f"cannot unmount: {record.target}: process {user} runs in it",
                hint="end the container first",
            )


def runtime_options(plan: Plan) -> list[str]:
    """Return the options of the overlay.

    The upper directory is not volatile, since overlayfs refuses a volatile one the second time, and
    a container can be started again.
    """
    (mount,) = plan.to_json()["mounts"]  # type: ignore[misc]
    options: list[str] = mount["options"]  # type: ignore[has-type]
    return [option for option in options if option != "volatile"]


def open_tree(plan: Plan) -> int:
    """Open the merged tree of a plan without a mount point; the caller closes the descriptor.

    :raises OSError: from the kernel, with its message.
    """
    from dataclasses import replace

    return detached(replace(plan, volatile=False))


def _containers(record: MountRecord) -> Iterator[int]:
    """Yield a process of each mount namespace that has the mount."""
    source = source_of(record.id)
    for pid in process.live_mount_namespaces().values():
        try:
            mounts = mountinfo.read(pid).mounts
        except OSError:  # it has ended
            continue
        if any(mount.source == source for mount in mounts):
            yield pid
