"""The copy driver: filling, protecting and emptying the target."""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest

from stacker.errors import MountError, StackerError
from stacker.linux import mountapi, mountinfo
from stacker.mount.detach import clear_stale, detach
from stacker.mount.table import Table

if TYPE_CHECKING:
    from pathlib import Path

    from stacker.mount.drivers.protocol import Mounted
    from stacker.mount.record import MountRecord
    from tests.support.bench import Bench

pytest.importorskip("stacker.stack.flatten")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


def copied(bench: Bench, *layers: Path, read_only: bool = True) -> tuple[MountRecord, Mounted]:
    return bench.mount(bench.request(driver="copy", read_only=read_only), *layers)


@needs_root
def test_copy_fills_the_target_read_only(bench: Bench) -> None:
    lower, upper = bench.layer("lower", both="lower", gone="x"), bench.layer("upper", both="upper")
    os.mknod(upper / "gone", 0o20000, os.makedev(0, 0))
    record, mounted = copied(bench, upper, lower)
    assert (record.driver, mounted.note) == ("copy", None)
    assert os.listdir(bench.target) == ["both"]
    assert (bench.target / "both").read_text() == "upper"
    with pytest.raises(OSError, match="Read-only"):
        (bench.target / "new").write_text("x")


@needs_root
def test_unmounting_a_copy_restores_the_empty_directory(bench: Bench) -> None:
    layer = bench.layer("a", dir__f="a")
    layer.chmod(0o711)
    os.chown(layer, 1, 2)
    bench.target.chmod(0o2750)
    os.chown(bench.target, 3, 4)
    copied(bench, layer)
    assert bench.target.stat().st_mode & 0o7777 == 0o711
    detach(bench.table, bench.target)
    status = bench.target.stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o2750, 3, 4)
    assert bench.left() == []


def test_writes_to_a_copy_are_discarded_and_change_no_layer(bench: Bench) -> None:
    layer = bench.layer("a", f="a")
    copied(bench, layer, read_only=False)
    (bench.target / "f").write_text("changed")
    (bench.target / "new").write_text("x")
    assert (layer / "f").read_text() == "a"
    detach(bench.table, bench.target)
    assert bench.left() == []


def test_target_with_files_is_refused_and_unchanged(bench: Bench) -> None:
    (bench.target / "precious").write_text("x")
    with pytest.raises(MountError, match="want nothing"):
        copied(bench, bench.layer("a", f="a"))
    assert bench.left() == ["precious"]


def test_failed_copy_leaves_the_target_empty(bench: Bench) -> None:
    layer = bench.layer("a", f="a", g="b")
    missing = bench.path / "missing"
    bench.target.chmod(0o750)
    with pytest.raises(MountError, match="missing"):
        copied(bench, layer, missing)
    assert bench.left() == []
    assert bench.target.stat().st_mode & 0o777 == 0o750


@needs_root
def test_full_disk_is_exit_code_1_and_leaves_no_files(bench: Bench) -> None:
    mountapi.mount("small", bench.path / "target", "tmpfs", 0, b"size=64k")
    small = bench.target / "target"
    small.mkdir()
    layer = bench.layer("a", f="x" * 200_000)
    request = replace(bench.request(driver="copy"), target=small)
    with pytest.raises(StackerError, match=os.strerror(errno.ENOSPC)) as caught:
        bench.mount(request, layer)
    assert caught.value.exit_code == 1
    assert os.listdir(small) == []
    assert os.listdir(bench.table.directory) == []


def killed_copy(bench: Bench, layer: Path, at: str) -> None:
    """Mount in a process that is killed when it calls a function of `attach` or `copy`."""
    child = os.fork()
    if child == 0:
        with patch(at, lambda *_: os.kill(os.getpid(), signal.SIGKILL)):
            copied(bench, layer)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


FILLED = "stacker.mount.drivers.copy.safe_path.require_same"
BOUND = "stacker.mount.attach._Attempts.record_completion"


@pytest.mark.parametrize("at", [FILLED, pytest.param(BOUND, marks=needs_root)])
def test_copy_of_a_killed_process_is_incomplete_and_kept_until_umount(
    bench: Bench, at: str
) -> None:
    bench.target.chmod(0o700)
    killed_copy(bench, bench.layer("a", f="a"), at)
    assert clear_stale(bench.table) == []
    assert [entry.state for entry in bench.table.entries()] == ["incomplete"]
    assert os.listdir(bench.target) == ["f"]
    detach(bench.table, bench.target)
    assert bench.left() == []
    assert bench.target.stat().st_mode & 0o7777 == 0o700
    assert bench.table.entries() == []


@pytest.mark.parametrize("at", [FILLED, pytest.param(BOUND, marks=needs_root)])
def test_mount_replaces_an_incomplete_copy(bench: Bench, at: str) -> None:
    killed_copy(bench, bench.layer("a", f="a"), at)
    copied(bench, bench.layer("b", g="b"))
    assert os.listdir(bench.target) == ["g"]
    assert [entry.state for entry in bench.table.entries()] == ["mounted"]
    detach(bench.table, bench.target)
    assert bench.left() == []


def test_copy_whose_completion_cannot_be_recorded_leaves_the_target_empty(bench: Bench) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (
        patch.object(Table, "write", side_effect=[None, full]),
        pytest.raises(StackerError, match="No space left"),
    ):
        copied(bench, bench.layer("a", f="a"))
    assert bench.left() == []


@needs_root
def test_busy_copy_is_not_emptied(bench: Bench) -> None:
    copied(bench, bench.layer("a", f="a"))
    with (bench.target / "f").open(), pytest.raises(MountError, match="in use"):
        detach(bench.table, bench.target)
    assert os.listdir(bench.target) == ["f"]
    detach(bench.table, bench.target)
    assert bench.left() == []


@needs_root
def test_mount_inside_a_copy_is_never_emptied(bench: Bench) -> None:
    precious = bench.path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    copied(bench, bench.layer("a", dir__f="a"), read_only=False)
    mountapi.mount(precious, bench.target / "dir", None, mountapi.MS_BIND)
    for lazy in (False, True):
        with pytest.raises(MountError, match="mounted here"):
            detach(bench.table, bench.target, lazy=lazy)
    assert (precious / "file").exists()
    assert (bench.target / "dir" / "file").exists()


@needs_root
def test_mount_over_a_copy_is_not_emptied(bench: Bench) -> None:
    copied(bench, bench.layer("a", f="a"))
    mountapi.mount("over", bench.target, "tmpfs", 0)
    (bench.target / "precious").write_text("x")
    with pytest.raises(MountError, match="another directory than at mount time"):
        detach(bench.table, bench.target)
    found = mountinfo.at(bench.target)
    assert found is not None
    assert found.source == "over"
    assert os.listdir(bench.target) == ["precious"]


def test_clearing_a_stale_copy_keeps_its_files(bench: Bench) -> None:
    copied(bench, bench.layer("a", f="a"), read_only=False)
    bench.target.rename(bench.path / "moved")
    bench.target.mkdir()
    (bench.target / "precious").write_text("x")
    assert len(clear_stale(bench.table)) == 1
    assert os.listdir(bench.target) == ["precious"]
    assert os.listdir(bench.path / "moved") == ["f"]


def test_target_with_a_copy_is_busy_for_every_driver(bench: Bench) -> None:
    copied(bench, bench.layer("a", f="a"), read_only=False)
    layers = bench.layer("b"), bench.layer("c")
    with pytest.raises(MountError, match="image image is mounted there"):
        bench.mount(bench.request(), *layers)
