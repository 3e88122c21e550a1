"""Upper directories that overlayfs and FUSE mount in turn, and what a killed server leaves."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import mountapi, mountinfo
from stacker.mount.drivers.fuse import FuseDriver
from stacker.mount.drivers.protocol import Driver
from tests.support.snapshot import snapshot
from tests.support.stacks import scratch
from tests.support.syscalls import error_of
from tests.support.writable_mounts import DRIVERS, Stack

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts: needs root"),
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse"),
    pytest.mark.usefixtures("alone_among_mounts"),
]


def changes(root: Path) -> None:
    """Make changes of every kind."""
    (root / "a").write_bytes(b"changed")
    (root / "d/file").rename(root / "moved")
    (root / "d/e/deep").unlink()
    (root / "d/e").rmdir()
    (root / "d/e").mkdir()
    (root / "d/e/new").write_bytes(b"n" * 5000)
    (root / "n/m").mkdir(parents=True)
    (root / "n/m/x").symlink_to("nowhere")
    (root / "n").rename(root / "o")
    os.link(root / "o/m/x", root / "y", follow_symlinks=False)
    os.setxattr(root / "d", "user.u", b"v")
    os.chown(root / "sparse", 8, 9)
    (root / "link").unlink()


@pytest.mark.parametrize("form", list(WhiteoutFormat), ids=lambda form: form.value)
@pytest.mark.parametrize(("first", "second"), [("fuse", "overlay"), ("overlay", "fuse")])
def test_overlay_and_fuse_read_each_others_upper(
    first: str, second: str, form: WhiteoutFormat
) -> None:
    with scratch() as workspace:
        stack = Stack(workspace, form)
        with stack.mounted(DRIVERS[first]) as root:
            changes(root)
            shown = snapshot(root)
        with stack.mounted(DRIVERS[second]) as root:
            assert snapshot(root) == shown
            shutil.rmtree(root / "o")
            (root / "o").write_bytes(b"not a directory")
            (root / "moved").rename(root / "d/e/moved")
            (root / "d/linked").unlink()
            shown = snapshot(root)
        with stack.mounted(DRIVERS[first]) as root:
            assert snapshot(root) == shown


@pytest.mark.parametrize("driver", DRIVERS.values(), ids=DRIVERS)
def test_persistent_upper_can_be_mounted_read_only(stack: Stack, driver: Driver) -> None:
    with stack.mounted(FuseDriver()) as root:
        changes(root)
        shown = snapshot(root)
    work = stack.workspace / "work"
    work.mkdir()
    driver.mount(replace(stack.plan(work), read_only=True))
    assert snapshot(stack.target) == shown
    assert error_of((stack.target / "new").touch) == errno.EROFS
    mountapi.umount2(stack.target)


def test_overlay_and_fuse_write_equal_uppers() -> None:
    shown = []
    for driver in DRIVERS.values():
        with scratch() as workspace:
            stack = Stack(workspace)
            (stack.two / "d/linked").unlink()  # links of lower files are where they differ
            with stack.mounted(driver) as root:
                changes(root)
                for above, directories, files in os.walk(root):
                    for name in (*directories, *files, "."):
                        os.utime(Path(above, name), (1, 1), follow_symlinks=False)
                shown.append(snapshot(root))
    assert shown[0] == shown[1]


# Failures


WRITER = """
import os, sys
root = sys.argv[1]
for number in range(10**6):
    with open(f"{root}/file-{number}", "wb") as file:
        file.write(b"%d" % number * 1000)
    if number == 20:
        print("going", flush=True)
    with open(f"{root}/d/e/deep", "r+b") as file:
        file.write(b"DEEP")
    os.rename(f"{root}/file-{number}", f"{root}/d/moved-{number}")
"""


def test_killed_server_leaves_no_partial_copy_up(stack: Stack) -> None:
    work = stack.workspace / "work"
    work.mkdir()
    note = FuseDriver().mount(stack.plan(work)).note or ""
    group = os.getpgid(int(note.split()[1]))
    command = [sys.executable, "-c", WRITER, str(stack.target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"going\n"
        os.killpg(group, signal.SIGKILL)
        assert writer.wait() != 0
    assert error_of(lambda: os.listdir(stack.target)) in {errno.ENOTCONN, errno.ECONNABORTED}
    mountapi.umount2(stack.target, mountapi.MNT_DETACH)
    for driver in DRIVERS.values():
        with stack.mounted(driver) as root:
            seen = snapshot(root)
            assert len(seen[b"d/e/deep"].content) == 12000
            moved = [path for path in seen if path.startswith(b"d/moved-")]
            assert len(moved) >= 20
            for path in moved:
                assert seen[path].content == path[8:] * 1000


def test_upper_with_redirect_or_metacopy_is_refused(stack: Stack) -> None:
    (stack.upper / "redirected").mkdir()
    os.setxattr(stack.upper / "redirected", "trusted.overlay.redirect", b"/d")
    with pytest.raises(Exception, match="redirect"), stack.mounted(FuseDriver()):
        pass
    assert mountinfo.at(stack.target) is None
