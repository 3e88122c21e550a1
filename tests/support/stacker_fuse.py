"""The program `stacker-fuse` as an executable file, as other programs start it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stacker.linux import mountapi, mountinfo
from tests.support.command import PATH, Result


@dataclass(frozen=True)
class StackerFuse:
    """The program in a directory of its own; `end` unmounts what it mounted.

    :param workspace: the directory of all its files.
    :param wrap: words before the command, such as those of setpriv(1).
    """

    workspace: Path
    wrap: tuple[str, ...] = ()
    python: str = sys.executable

    @property
    def program(self) -> Path:
        """Return the executable; write it first, as an installation does."""
        path = self.workspace / "bin/stacker-fuse"
        if not path.exists():
            path.parent.mkdir(mode=0o755, exist_ok=True)
            path.write_text(
                f"#!/bin/sh\nPYTHONPATH={PATH} "
                f'exec {self.python} -m stacker.cli.stacker_fuse "$@"\n'
            )
            path.chmod(0o755)
        return path

    def run(self, *words: str | Path, cwd: Path | None = None) -> Result:
        """Run the program, and return its result."""
        command = [*self.wrap, str(self.program), *map(str, words)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=100, cwd=cwd
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def __call__(self, *words: str | Path) -> Result:
        """Run the program; it must succeed."""
        done = self.run(*words)
        assert done.code == 0, done
        return done

    def servers(self) -> list[int]:
        """Return the server processes of the mounts below the directory."""
        return sorted(int(name) for name in os.listdir("/proc") if self._is_ours(name))

    def _is_ours(self, name: str) -> bool:
        if not name.isdigit():
            return False
        try:
            comm = Path("/proc", name, "comm").read_bytes()
            words = Path("/proc", name, "cmdline").read_bytes()
        except OSError:
            return False
        return comm == b"stacker-fuse\n" and os.fsencode(self.workspace) in words

    def end(self) -> None:
        """Unmount everything, and wait until no server process is left."""
        while inside := mountinfo.read().below(self.workspace):
            mountapi.umount2(inside[-1].mount_point, mountapi.MNT_DETACH)
        while servers := self.servers():  # a server may hold a mount in another namespace
            for number in servers:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGTERM)
            time.sleep(0.01)


def lowerdir(*layers: Path) -> str:
    """Return the option for directories, topmost first."""
    return "lowerdir=" + ":".join(map(str, layers))


def joined(*options: str) -> Sequence[str]:
    """Return options as arguments."""
    return "-o", ",".join(options)


def unmount(fuse: StackerFuse, target: Path) -> None:
    """Unmount, and wait until the server has exited."""
    mountapi.umount2(target)
    while fuse.servers():
        time.sleep(0.01)


def layers(workspace: Path) -> str:
    return lowerdir(workspace / "up", workspace / "low")


def writing(workspace: Path) -> str:
    return f"{layers(workspace)},upperdir={workspace}/upper,workdir={workspace}/work"


def owner(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid
