"""Select the driver for a mount: the named one, or the first that succeeds.

A driver's name and a plan come in; a mount goes out, with the reasons why other drivers were not
used.  A driver refuses a plan beforehand only if an attempt would fail or mislead.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from stacker.errors import MountError, RefusedError, StackerError, UsageError
from stacker.mount.drivers.copy import CopyDriver
from stacker.mount.drivers.fuse import FuseDriver
from stacker.mount.drivers.overlay import OverlayDriver
from stacker.mount.drivers.protocol import Driver, Mounted

if TYPE_CHECKING:
    from collections.abc import Callable

    from stacker.mount.plan import Plan

DRIVERS: tuple[Driver, ...] = (OverlayDriver(), FuseDriver(), CopyDriver())
"""The drivers that ``auto`` tries, in order."""


def driver_named(name: str) -> Driver:
    """Return the driver with a name.

    :raises UsageError: no driver has this name.
    """
    for driver in DRIVERS:
        if driver.name == name:
            return driver
    if name == "fuse-overlayfs":
        # Loaded only when a command line or a record names it.
        from stacker.mount.drivers.fuse_overlayfs import FuseOverlayfsDriver

        return FuseOverlayfsDriver()
    if name == "runtime":
        from stacker.mount.drivers.runtime import RuntimeDriver

        return RuntimeDriver()
    known = ", ".join(driver.name for driver in DRIVERS)
    raise UsageError(
        f"no such mount driver: got {name!r}, want one of auto, {known}, fuse-overlayfs"
    )


def choose(name: str, plan: Plan) -> tuple[Driver, tuple[str, ...]]:
    """Return the driver that `execute` would try first, and why it would skip others.

    :param name: a driver's name, or ``auto``.
    :raises StackerError: the named driver refuses the plan.
    :raises MountError: every driver refuses the plan.
    """
    reasons: list[StackerError] = []
    for driver in _candidates(name):
        refusal = driver.refusal(plan)
        if refusal is None:
            return driver, _messages(reasons)
        if name != "auto":
            raise refusal
        reasons.append(refusal)
    raise _no_driver(plan, reasons)


def execute(name: str, plan: Plan, on_attempt: Callable[[Driver], None]) -> Mounted:
    """Mount by the named driver, or by the first that succeeds.

    :param name: a driver's name, or ``auto``.
    :param on_attempt: called with each driver before it is tried.
    :raises StackerError: why the named driver failed, or why every driver failed.
    """
    reasons: list[StackerError] = []
    for driver in _candidates(name):
        refusal = driver.refusal(plan)
        if refusal is None:
            on_attempt(driver)
            try:
                mounted = driver.mount(plan)
            except RefusedError as error:
                refusal = error
            else:
                return replace(mounted, reasons=_messages(reasons))
        if name != "auto":
            raise refusal
        reasons.append(refusal)
    raise _no_driver(plan, reasons)


def _candidates(name: str) -> tuple[Driver, ...]:
    return DRIVERS if name == "auto" else (driver_named(name),)


def _messages(reasons: list[StackerError]) -> tuple[str, ...]:
    return tuple(error.message for error in reasons)


def _no_driver(plan: Plan, reasons: list[StackerError]) -> MountError:
    hints = [error.hint for error in reasons if error.hint]
    return MountError(
        f"no driver can mount: {plan.target}: {'; '.join(_messages(reasons))}",
        hint=hints[0] if hints else None,
    )
