"""The interface of a mount driver, and the result of a mount.

Types only: `overlay`, `fuse`, `fuse_overlayfs` and `copy` implement `Driver`, and
`stacker.mount.drivers.choose` selects one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from stacker.errors import StackerError
    from stacker.mount.plan import Plan
    from stacker.mount.record import MountRecord


@dataclass(frozen=True, slots=True)
class Mounted:
    """The result of a mount.

    :param driver: the name of the driver that made the mount.
    :param note: a remark for the user, if there is one.
    :param reasons: why each driver before this one was not used, one line each.
    :param server: the PID and the start time of the process that serves the mount; it exits after
        its workers.
    :param served: the mount point of that process, if an overlay is above it.
    """

    driver: str
    note: str | None = None
    reasons: tuple[str, ...] = ()
    server: tuple[int, int] | None = None
    served: Path | None = None


class Driver(Protocol):
    """Exposes a merged tree at a mount point."""

    @property
    def name(self) -> str:
        """The driver's name on the command line."""

    def refusal(self, plan: Plan) -> StackerError | None:
        """Return why this driver cannot execute a plan on this machine; ``None`` to try it.

        The user sees the error if the command line names this driver, and its message as one of
        `Mounted.reasons` otherwise.  This method changes nothing, and predicts no failure that an
        attempt would explain better.
        """

    def mount(self, plan: Plan) -> Mounted:
        """Execute a plan completely or not at all; `plan.directories` exist.

        :raises RefusedError: the kernel refuses, for a reason other than the target or a layer.
        :raises MountError: the mount failed, and would fail with any other driver.
        """

    def unmount(self, record: MountRecord, *, lazy: bool = False) -> None:
        """Undo `mount`, but leave the mount's own directory to the caller.

        :param lazy: detach the mount even while processes use it.
        :raises MountError: the mount is in use, or the kernel refuses.
        """
