"""A stack of layers that overlayfs and FUSE mount writable."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import mountapi
from stacker.mount.drivers.fuse import FuseDriver
from stacker.mount.drivers.overlay import OverlayDriver
from stacker.mount.drivers.protocol import Driver
from stacker.mount.plan import Plan

DRIVERS: dict[str, Driver] = {"overlay": OverlayDriver(), "fuse": FuseDriver()}


LONG_AGO = 1_000_000_000


class Stack:
    """Two lower directories, an upper one and a target."""

    def __init__(self, workspace: Path, form: WhiteoutFormat = WhiteoutFormat.TRUSTED) -> None:
        self.workspace, self.form = workspace, form
        self.one, self.two, self.upper = workspace / "one", workspace / "two", workspace / "upper"
        self.target = workspace / "target"
        for directory in (self.one, self.two, self.upper, self.target):
            directory.mkdir()
        self._fill()
        self._mounts = 0

    def _fill(self) -> None:
        (self.two / "d/e").mkdir(parents=True)
        (self.two / "a").write_bytes(b"lower a")
        os.link(self.two / "a", self.two / "d/linked")
        (self.two / "d/e/deep").write_bytes(b"deep" * 3000)
        (self.two / "gone").touch()
        os.symlink("a", self.two / "link")
        (self.one / "d").mkdir(mode=0o750)
        os.chown(self.one / "d", 11, 12)
        (self.one / "d/file").write_bytes(b"file")
        os.setxattr(self.one / "d/file", "user.kind", b"\0\xff")
        os.chmod(self.one / "d/file", 0o4711)
        os.chown(self.one / "d/file", 21, 22)
        os.chmod(self.one / "d/file", 0o4711)
        os.mknod(self.one / "gone", stat.S_IFCHR)
        with (self.two / "sparse").open("wb") as sparse:
            sparse.seek(8 << 20)
            sparse.write(b"end")
        for top in (self.one, self.two):
            for above, directories, files in os.walk(top):
                for name in (*directories, *files, "."):
                    os.utime(Path(above, name), (LONG_AGO, LONG_AGO), follow_symlinks=False)

    @contextmanager
    def mounted(self, driver: Driver) -> Iterator[Path]:
        """Mount read-write with a driver."""
        self._mounts += 1
        work = self.workspace / f"work-{self._mounts}"
        work.mkdir()
        driver.mount(self.plan(work))
        try:
            yield self.target
        finally:
            mountapi.umount2(self.target)

    def plan(self, work: Path, name: str = "rw") -> Plan:
        layers = (self.one, self.two)
        return Plan(name, self.target, layers, self.form, False, self.upper, work)


def as_user(root: Path, script: str, uid: int = 1234) -> subprocess.CompletedProcess[str]:
    command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "sh", "-c", script]
    return subprocess.run(command, cwd=root, check=False, capture_output=True, text=True)
