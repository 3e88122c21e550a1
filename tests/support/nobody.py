"""Nobody as the one who runs a program that a test starts, or who the test is for a while."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import stacker

IMPORT_PATH = os.pathsep.join(
    [str(Path(stacker.__file__).parents[1]), sysconfig.get_path("platlib")]
)
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def startable_python() -> str | None:
    """Give an interpreter that nobody can start, not one in root's home, with the package."""
    environment = {**os.environ, "PYTHONPATH": IMPORT_PATH}
    for python in (sys.executable, "/usr/bin/python3"):
        script = f"exec {python} -c 'import stacker, xattr'"
        command = [*NOBODY, "sh", "-c", script]
        if subprocess.run(command, check=False, env=environment, cwd="/").returncode == 0:
            return python
    return None


@contextmanager
def acting_as(uid: int = 65534, gid: int = 65534, groups: Sequence[int] = ()) -> Iterator[None]:
    """Let this very process be somebody else to filesystems, without root's capabilities.

    It stays root by its real IDs, so access(2) would be answered for root.
    """
    before = os.getgroups()
    os.setgroups(groups)
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(before)
