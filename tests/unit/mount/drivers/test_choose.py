"""The choice of a driver: order, refusals, and failures that end the search."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stacker.errors import MountError, RefusedError, StackerError, UnsupportedError, UsageError
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.mount.drivers import choose
from stacker.mount.drivers.copy import CopyDriver
from stacker.mount.drivers.protocol import Driver, Mounted
from stacker.mount.plan import Plan

if TYPE_CHECKING:
    from stacker.mount.record import MountRecord

PLAN = Plan("0a", Path("/target"), (Path("/a"), Path("/b")), WhiteoutFormat.TRUSTED)


@dataclass(frozen=True, slots=True)
class Scripted:
    """A driver with fixed answers, to test the choice among drivers."""

    name: str
    refuses: StackerError | None = None
    fails: StackerError | None = None

    def refusal(self, plan: Plan) -> StackerError | None:
        del plan
        return self.refuses

    def mount(self, plan: Plan) -> Mounted:
        del plan
        if self.fails:
            raise self.fails
        return Mounted(self.name, note="a note")

    def unmount(self, record: MountRecord, *, lazy: bool = False) -> None:
        del record, lazy


NO = MountError("first: no privilege", hint="become root")
REFUSED = RefusedError("second: kernel says EPERM", hint="ask the kernel")


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    drivers: tuple[Driver, ...] = (
        Scripted("first", refuses=NO),
        Scripted("second", fails=REFUSED),
        Scripted("third"),
        Scripted("fourth"),
    )
    monkeypatch.setattr(choose, "DRIVERS", drivers)
    return []


def run(name: str, announced: list[str]) -> Mounted:
    return choose.execute(name, PLAN, lambda driver: announced.append(driver.name))


def test_auto_uses_the_first_driver_that_succeeds_with_reasons(order: list[str]) -> None:
    mounted = run("auto", order)
    assert mounted == Mounted("third", "a note", (NO.message, REFUSED.message))
    assert order == ["second", "third"]


def test_named_driver_is_the_only_one_tried(order: list[str]) -> None:
    assert run("fourth", order).driver == "fourth"
    assert order == ["fourth"]


@pytest.mark.parametrize(("name", "error"), [("first", NO), ("second", REFUSED)])
def test_refusal_of_a_named_driver_is_its_own_error(
    order: list[str], name: str, error: MountError
) -> None:
    with pytest.raises(MountError) as caught:
        run(name, order)
    assert caught.value is error
    assert caught.value.exit_code == 9


def test_failure_without_refusal_tries_no_other_driver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    busy = MountError("the target is busy")
    drivers = (Scripted("one", fails=busy), Scripted("two"))
    monkeypatch.setattr(choose, "DRIVERS", drivers)
    with pytest.raises(MountError) as caught:
        run("auto", [])
    assert caught.value is busy


def test_error_lists_the_reasons_of_all_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        choose, "DRIVERS", (Scripted("first", refuses=NO), Scripted("second", fails=REFUSED))
    )
    with pytest.raises(MountError) as caught:
        run("auto", [])
    assert NO.message in caught.value.message
    assert REFUSED.message in caught.value.message
    assert caught.value.hint == "become root"


def test_choose_returns_the_first_driver_without_refusal(order: list[str]) -> None:
    driver, reasons = choose.choose("auto", PLAN)
    assert (driver.name, reasons, order) == ("second", (NO.message,), [])


def test_unknown_driver_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="got 'zfs', want one of auto, overlay, fuse, copy, "):
        choose.choose("zfs", PLAN)


def test_drivers_are_tried_as_overlay_fuse_copy() -> None:
    assert [driver.name for driver in choose.DRIVERS] == ["overlay", "fuse", "copy"]


def test_fuse_overlayfs_is_available_by_name_only() -> None:
    assert choose.driver_named("fuse-overlayfs").name == "fuse-overlayfs"
    assert "fuse-overlayfs" not in {driver.name for driver in choose.DRIVERS}


def test_copy_driver_refuses_a_persistent_upper(tmp_path: Path) -> None:
    plan = replace(PLAN, target=tmp_path, upper=tmp_path / "upper", work=tmp_path / "work")
    with pytest.raises(UnsupportedError, match="the copy driver does not support --upper"):
        choose.choose("copy", plan)
    assert CopyDriver().refusal(replace(plan, volatile=True)) is None


def test_copy_driver_refuses_a_full_target_before_the_attempt(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"x")
    announced: list[str] = []
    with pytest.raises(MountError, match="got 'precious', want nothing"):
        choose.execute(
            "copy", replace(PLAN, target=tmp_path), lambda driver: announced.append(driver.name)
        )
    assert (announced, os.listdir(tmp_path)) == ([], ["precious"])
