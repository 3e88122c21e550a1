"""Mounts that fail, are killed, or are made at the same time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stacker.errors import MountError, StackerError, UsageError
from stacker.linux import mountapi, mountinfo
from stacker.mount.attach import attach
from stacker.mount.detach import clear_stale, detach
from stacker.mount.drivers import choose
from stacker.mount.drivers.overlay import OverlayDriver
from stacker.mount.drivers.protocol import Mounted
from stacker.mount.plan import Plan
from tests.support.bench import image, nothing_is_left, request, table

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount or change to another user"),
    pytest.mark.usefixtures("alone_among_mounts"),
]


@pytest.mark.parametrize("upper", [None, "changes"])
def test_failed_mount_leaves_no_files_and_no_mount(place: Path, upper: str | None) -> None:
    wanted = request(place, read_only=False, upper=place / upper if upper else None)
    with pytest.raises(MountError, match="missing: No such file"):
        attach(table(place), wanted, image(place, place / "missing"))
    assert nothing_is_left(place)


class InterruptedWhenDone(OverlayDriver):
    """A driver that gets KeyboardInterrupt after its last system call."""

    def mount(self, plan: Plan) -> Mounted:
        super().mount(plan)
        raise KeyboardInterrupt


@pytest.mark.parametrize("upper", [None, "changes"])
def test_interrupted_mount_leaves_no_files_and_no_mount(
    place: Path, monkeypatch: pytest.MonkeyPatch, upper: str | None
) -> None:
    monkeypatch.setattr(choose, "DRIVERS", (InterruptedWhenDone(),))
    wanted = request(place, read_only=False, upper=place / upper if upper else None)
    with pytest.raises(KeyboardInterrupt):
        attach(table(place), wanted, image(place))
    assert nothing_is_left(place)


def test_unknown_driver_is_refused_before_any_change(place: Path) -> None:
    with pytest.raises(UsageError, match="no such mount driver: got 'zfs', want one of auto, "):
        attach(table(place), request(place, driver="zfs"), image(place))
    assert sorted(os.listdir(place)) == ["layers", "target"]


def test_unwritable_mount_table_is_a_mount_error(place: Path) -> None:
    (place / "mounts").write_text("in the way")
    with pytest.raises(MountError, match="mounts: Not a directory"):
        attach(table(place), request(place), image(place))
    assert mountinfo.at(place / "target") is None


def test_full_disk_leaves_no_mount_and_no_directory(place: Path) -> None:
    (place / "mounts").mkdir()
    mountapi.mount("small", place / "mounts", "tmpfs", 0, b"size=4k,nr_inodes=3")
    with pytest.raises(StackerError, match="No space left") as caught:
        attach(table(place), request(place, read_only=False), image(place))
    assert caught.value.exit_code == 1
    assert os.listdir(place / "mounts") == []
    assert mountinfo.at(place / "target") is None


KILLED_AT = """
import os, signal, sys
from pathlib import Path
from stacker.mount import table
from stacker.mount.drivers import choose
from stacker.mount.attach import attach
from stacker.layer.paths import Stack
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.mount.plan import MountRequest, StackedImage
place, moment = Path(sys.argv[1]), sys.argv[2]
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
if moment == "before the record":
    table.Table.write = die
elif moment == "before the mount":
    choose.OverlayDriver.mount = die
layers = (place / "layers/upper", place / "layers/lower")
image = StackedImage("image", Stack(layers, WhiteoutFormat.TRUSTED, False))
request = MountRequest(place / "target", read_only=False, upper=place / "changes")
attach(table.Table(place / "mounts"), request, image)
die()
"""


@pytest.mark.parametrize("moment", ["before the record", "before the mount", "after the mount"])
def test_killed_mount_is_cleared_completely(place: Path, moment: str) -> None:
    command = [sys.executable, "-c", KILLED_AT, str(place), moment]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    if moment == "after the mount":
        detach(table(place), place / "target")
    else:
        assert len(clear_stale(table(place))) == (moment == "before the mount")
        again = request(place, read_only=False, upper=place / "changes")
        attach(table(place), again, image(place))
        detach(table(place), place / "target")
    assert os.listdir(place / "mounts") == []
    assert sorted(os.listdir(place)) == ["changes", "layers", "mounts", "target"]


MOUNT_MANY = """
import sys
from pathlib import Path
from stacker.errors import LockedError, MountError
from stacker.mount.attach import attach
from stacker.mount.detach import clear_stale, detach
from stacker.layer.paths import Stack
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.mount.plan import MountRequest, StackedImage
from stacker.mount.table import Table
place, target = Path(sys.argv[1]), Path(sys.argv[2])
table = Table(place / "mounts")
layers = (place / "layers/upper", place / "layers/lower")
image = StackedImage("image", Stack(layers, WhiteoutFormat.TRUSTED, False))
request = MountRequest(target, read_only=False)
won = 0
for _ in range(40):
    try:
        attach(table, request, image)
    except (LockedError, MountError) as error:
        assert "busy" in error.message or "in use" in error.message, error
        continue
    (target / "new").write_text("x")
    clear_stale(table)
    detach(table, target)
    won += 1
print(won)
"""


@pytest.mark.parametrize("targets", [("target", "target", "target"), ("target", "t2", "t3")])
def test_concurrent_mounts_share_no_target_and_clear_no_other(
    place: Path, targets: tuple[str, ...]
) -> None:
    for name in set(targets):
        (place / name).mkdir(exist_ok=True)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", MOUNT_MANY, str(place), str(place / name)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in targets
    ]
    ended = [(child.communicate(), child.returncode) for child in children]
    for (out, errors), code in ended:
        assert (code, errors) == (0, "")
        assert int(out) == 40 or len(set(targets)) == 1
    assert mountinfo.read().below(place) == []
    assert os.listdir(place / "mounts") == []
