"""The order of drivers, what falls through, and what does not."""

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
    """A driver whose answers are fixed; the choice among drivers is what is under test."""

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


def test_auto_takes_the_first_that_can_and_says_why_not_the_others(order: list[str]) -> None:
    mounted = run("auto", order)
    assert mounted == Mounted("third", "a note", (NO.message, REFUSED.message))
    assert order == ["second", "third"]


def test_a_driver_asked_for_by_name_is_the_only_one_tried(order: list[str]) -> None:
    assert run("fourth", order).driver == "fourth"
    assert order == ["fourth"]


@pytest.mark.parametrize(("name", "error"), [("first", NO), ("second", REFUSED)])
def test_a_named_driver_that_cannot_says_so_itself(
    order: list[str], name: str, error: MountError
) -> None:
    with pytest.raises(MountError) as caught:
        run(name, order)
    assert caught.value is error
    assert caught.value.exit_code == 9


def test_a_failure_that_is_no_refusal_does_not_fall_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    busy = MountError("the target is busy")
    drivers = (Scripted("one", fails=busy), Scripted("two"))
    monkeypatch.setattr(choose, "DRIVERS", drivers)
    with pytest.raises(MountError) as caught:
        run("auto", [])
    assert caught.value is busy


def test_when_none_can_all_reasons_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        choose, "DRIVERS", (Scripted("first", refuses=NO), Scripted("second", fails=REFUSED))
    )
    with pytest.raises(MountError) as caught:
        run("auto", [])
    assert NO.message in caught.value.message
    assert REFUSED.message in caught.value.message
    assert caught.value.hint == "become root"


def test_choosing_without_trying_gives_the_first_that_does_not_refuse(order: list[str]) -> None:
    driver, reasons = choose.choose("auto", PLAN)
    assert (driver.name, reasons, order) == ("second", (NO.message,), [])


def test_an_unknown_driver_is_the_callers_mistake() -> None:
    with pytest.raises(UsageError, match="zfs: want auto, overlay, fuse, copy, fuse-overlayfs"):
        choose.choose("zfs", PLAN)


def test_the_order_is_overlay_then_fuse_then_copy() -> None:
    assert [driver.name for driver in choose.DRIVERS] == ["overlay", "fuse", "copy"]


def test_fuse_overlayfs_is_taken_only_if_asked_for() -> None:
    assert choose.driver_named("fuse-overlayfs").name == "fuse-overlayfs"
    assert "fuse-overlayfs" not in {driver.name for driver in choose.DRIVERS}


def test_a_copy_cannot_keep_writes_apart(tmp_path: Path) -> None:
    plan = replace(PLAN, target=tmp_path, upper=tmp_path / "upper", work=tmp_path / "work")
    with pytest.raises(UnsupportedError, match="the copy driver does not support --upper"):
        choose.choose("copy", plan)
    assert CopyDriver().refusal(replace(plan, volatile=True)) is None


def test_a_copy_wants_an_empty_target_before_it_is_announced(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"x")
    announced: list[str] = []
    with pytest.raises(MountError, match="got 'precious', want nothing"):
        choose.execute(
            "copy", replace(PLAN, target=tmp_path), lambda driver: announced.append(driver.name)
        )
    assert (announced, os.listdir(tmp_path)) == ([], ["precious"])
