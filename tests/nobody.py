"""Nobody as the one who runs a program that a test starts."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
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
