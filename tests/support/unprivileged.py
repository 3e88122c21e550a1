"""Run a program, or a part of a test, as an unprivileged user (UID 65534)."""

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
UNPRIVILEGED = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def startable_python() -> str | None:
    """Return a Python that UID 65534 can start and that imports this package, or ``None``.

    An interpreter in root's home directory does not qualify.
    """
    environment = {**os.environ, "PYTHONPATH": IMPORT_PATH}
    for python in (sys.executable, "/usr/bin/python3"):
        script = f"exec {python} -c 'import stacker, xattr'"
        command = [*UNPRIVILEGED, "sh", "-c", script]
        if subprocess.run(command, check=False, env=environment, cwd="/").returncode == 0:
            return python
    return None


@contextmanager
def acting_as(uid: int = 65534, gid: int = 65534, groups: Sequence[int] = ()) -> Iterator[None]:
    """Switch this process to other effective IDs, which drops root's capabilities.

    The real IDs stay 0, so access(2) still answers for root.

    :param uid: effective user ID inside the context.
    :param gid: effective group ID inside the context.
    :param groups: supplementary groups inside the context.
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
