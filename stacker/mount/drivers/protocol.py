"""What every mount driver offers, and what comes of using one.

Types only: the drivers are `overlay`, `fuse`, `fuse_overlayfs` and `copy`, the choice among them is
`choose`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from stacker.errors import MountError, StackerError

if TYPE_CHECKING:
    from stacker.mount.plan import Plan
    from stacker.mount.record import MountRecord


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount that was made.

    :param driver: the name of the driver that made it.
    :param note: what a person should know about it, if anything.
    :param reasons: why drivers before this one in the order were not used, one line each.
    """

    driver: str
    note: str | None = None
    reasons: tuple[str, ...] = ()


class RefusedError(MountError):
    """The driver cannot make this mount here, and another may: `choose` goes on to the next."""


class Driver(Protocol):
    """A way to show a merged tree at a mount point."""

    @property
    def name(self) -> str:
        """The driver's name, as a person gives it."""

    def refusal(self, plan: Plan) -> StackerError | None:
        """Say why this driver cannot do that plan here; `None` when it is worth trying.

        It is what a person gets who asked for this driver, and one line of the reasons
        otherwise.  Changes nothing, and makes no guess that an attempt would answer better.
        """

    def mount(self, plan: Plan) -> Mounted:
        """Execute a plan, whole or not at all; `plan.directories` exist.

        :raises RefusedError: the kernel will not, and nothing about the target is at fault.
        :raises MountError: it failed, and would with any other driver.
        """

    def unmount(self, record: MountRecord, *, lazy: bool = False) -> None:
        """Undo `mount`; the record's directory is not this driver's to remove.

        :param lazy: detach now, even while processes use it.
        :raises MountError: it is in use, or the kernel refuses.
        """
