"""Which driver makes a mount: the one that was asked for, or the first that can.

In come a driver's name and a plan; out goes a mount and why it was made so.  A driver's own
refusal saves an attempt that would fail or mislead; beyond it, trying beats guessing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.errors import MountError, StackerError, UsageError
from stacker.mount.drivers.copy import CopyDriver
from stacker.mount.drivers.fuse import FuseDriver
from stacker.mount.drivers.overlay import OverlayDriver
from stacker.mount.drivers.protocol import Driver, Mounted, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stacker.mount.plan import Plan

DRIVERS: tuple[Driver, ...] = (OverlayDriver(), FuseDriver(), CopyDriver())
"""What ``auto`` tries, in this order."""


def driver_named(name: str) -> Driver:
    """Return the driver of a name.

    :raises UsageError: there is none.
    """
    for driver in DRIVERS:
        if driver.name == name:
            return driver
    if name == "fuse-overlayfs":
        from stacker.mount.drivers.fuse_overlayfs import FuseOverlayfsDriver  # by its name only

        return FuseOverlayfsDriver()
    known = ", ".join(driver.name for driver in DRIVERS)
    raise UsageError(f"no such mount driver: {name}: want auto, {known}, fuse-overlayfs")


def choose(name: str, plan: Plan) -> tuple[Driver, tuple[str, ...]]:
    """Return the driver that would be tried first, and why those before it would not.

    :param name: a driver's name, or ``auto``.
    :raises StackerError: the driver's own refusal, when it was asked for by name.
    :raises MountError: every driver refuses.
    """
    reasons: list[StackerError] = []
    for driver in _candidates(name):
        refusal = driver.refusal(plan)
        if refusal is None:
            return driver, _lines(reasons)
        if name != "auto":
            raise refusal
        reasons.append(refusal)
    raise _nobody(plan, reasons)


def execute(name: str, plan: Plan, announce: Callable[[Driver], None]) -> Mounted:
    """Mount by the driver of a name, or by the first that neither refuses nor is refused.

    :param name: a driver's name, or ``auto``.
    :param announce: called with each driver before it is tried.
    :raises StackerError: what stood in the way; for ``auto``, of every driver.
    """
    reasons: list[StackerError] = []
    for driver in _candidates(name):
        refusal = driver.refusal(plan)
        if refusal is None:
            announce(driver)
            try:
                mounted = driver.mount(plan)
            except RefusedError as error:
                refusal = error
            else:
                return Mounted(mounted.driver, mounted.note, _lines(reasons))
        if name != "auto":
            raise refusal
        reasons.append(refusal)
    raise _nobody(plan, reasons)


def _candidates(name: str) -> tuple[Driver, ...]:
    return DRIVERS if name == "auto" else (driver_named(name),)


def _lines(reasons: list[StackerError]) -> tuple[str, ...]:
    return tuple(error.message for error in reasons)


def _nobody(plan: Plan, reasons: list[StackerError]) -> MountError:
    hints = [error.hint for error in reasons if error.hint]
    return MountError(
        f"no driver can mount: {plan.target}: {'; '.join(_lines(reasons))}",
        hint=hints[0] if hints else None,
    )
