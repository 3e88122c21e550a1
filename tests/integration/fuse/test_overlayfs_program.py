"""The fuse-overlayfs driver: mounts, writes, failures and cleanup."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stacker.linux import mountinfo
from stacker.mount.drivers.fuse_overlayfs import PROGRAM
from tests.support import images
from tests.support.command import Stacker
from tests.support.mounts import unmount_below
from tests.support.tars import file, tar, whiteout

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="looks into processes of root"),
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse"),
    pytest.mark.usefixtures("alone_among_mounts"),
]
needs_program = pytest.mark.skipif(shutil.which(PROGRAM) is None, reason=f"no {PROGRAM}")
LAYERS = [tar(file("kept", b"lower"), file("gone", b"x")), tar(whiteout("gone"), file("new", b""))]
WORDS = ("--driver", PROGRAM)


@pytest.fixture
def stacker(tmp_path: Path) -> Iterator[Stacker]:
    stacker = Stacker(tmp_path / "store, with signs")
    stacker("pull", images.layout(tmp_path / "app", LAYERS).source)
    yield stacker
    unmount_below(tmp_path)


def servers() -> set[int]:
    names = (name for name in os.listdir("/proc") if name.isdigit())
    return {int(name) for name in names if _name(name) == f"{PROGRAM}\n"}


def _name(process: str) -> str:
    try:
        return Path(f"/proc/{process}/comm").read_text()
    except OSError:
        return ""


@needs_program
def test_mount_is_listed_until_it_is_unmounted(stacker: Stacker, target: Path) -> None:
    assert stacker("mount", *WORDS, "app:1.0", target).last == PROGRAM
    assert sorted(os.listdir(target)) == ["kept", "new"]
    found = mountinfo.at(target)
    assert found is not None
    assert (found.fstype, found.source[:8]) == ("fuse.stacker", "stacker:")
    (item,) = stacker("mounts", "--json").items
    assert (item["driver"], item["state"], item["fuse_adapter"]) == (PROGRAM, "mounted", None)
    stacker("umount", target)
    assert os.listdir(target) == []
    stacker.assert_clean(images=1)


@needs_program
def test_fuse_overlayfs_discards_writes_at_umount(stacker: Stacker, target: Path) -> None:
    for _ in range(2):
        stacker("mount", *WORDS, "--rw", "app:1.0", target)
        assert (target / "kept").read_bytes() == b"lower"
        (target / "kept").write_bytes(b"written")
        (target / "new").unlink()
        stacker("umount", target)
    stacker.assert_clean(images=1)


@needs_program
def test_store_path_with_a_colon_is_mounted_read_only(
    stacker: Stacker, target: Path, tmp_path: Path
) -> None:
    there = replace(stacker, store=tmp_path / "a:b")
    stacker.store.rename(there.store)
    there("mount", *WORDS, "app:1.0", target)
    assert (target / "kept").read_bytes() == b"lower"
    there("umount", target)
    message = there.refused(7, "mount", *WORDS, "--rw", "app:1.0", target)
    assert "got a colon in the path, want none" in message
    there.assert_clean(images=1)


@needs_program
def test_fuse_overlayfs_refuses_a_persistent_upper(
    stacker: Stacker, target: Path, tmp_path: Path
) -> None:
    message = stacker.refused(7, "mount", *WORDS, "--upper", tmp_path / "kept", "app:1.0", target)
    assert f"{PROGRAM} does not support --upper" in message
    stacker.assert_clean(images=1)


@needs_program
def test_mounts_clears_a_mount_without_a_server(stacker: Stacker, target: Path) -> None:
    before = servers()
    stacker("mount", *WORDS, "app:1.0", target)
    (server,) = servers() - before
    os.kill(server, signal.SIGKILL)
    while not stacker("mounts", "--json").document["cleared"]:
        pass
    assert os.listdir(target) == []
    stacker.assert_clean(images=1)


@needs_program
def test_stderr_of_fuse_overlayfs_is_in_the_error(stacker: Stacker, target: Path) -> None:
    place = target.parent / "bin"
    place.mkdir()
    (place / PROGRAM).write_text("#!/bin/sh\necho 'no such luck' >&2\nexit 1\n")
    (place / PROGRAM).chmod(0o755)
    unlucky = replace(stacker, environ={"PATH": f"{place}:{os.environ['PATH']}"})
    message = unlucky.refused(9, "mount", *WORDS, "app:1.0", target)
    assert f"cannot mount by {PROGRAM}: {target}: no such luck" in message
    assert mountinfo.at(target) is None
    stacker.assert_clean(images=1)


def test_missing_fuse_overlayfs_is_an_error_with_a_hint(stacker: Stacker, target: Path) -> None:
    without = replace(stacker, environ={"PATH": "/nowhere"})
    message = without.refused(9, "mount", *WORDS, "app:1.0", target)
    assert "fuse-overlayfs is not installed" in message
    assert f"install the package {PROGRAM}" in message
    stacker.assert_clean(images=1)


@needs_program
def test_plan_of_fuse_overlayfs_works_with_mount_8(stacker: Stacker, target: Path) -> None:
    plan = stacker("mount", *WORDS, "--rw", "--print-plan", "app:1.0", target).item["plan"]
    (only,) = plan["mounts"]
    assert only["type"] == f"fuse.{PROGRAM}"
    assert f"upperdir={plan['upper']}".replace(",", "\\,") in only["options"]
