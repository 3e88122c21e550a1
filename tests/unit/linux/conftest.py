"""Programs that the tests start find the package under test, also when nobody starts them."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import stacker

_PATH = os.pathsep.join([str(Path(stacker.__file__).parents[1]), sysconfig.get_path("platlib")])
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", _PATH)


@pytest.fixture(scope="session")
def nobodys_python() -> str:
    """An interpreter that nobody can start: not one in the home of root."""
    environment = {**os.environ, "PYTHONPATH": _PATH}
    for python in (sys.executable, "/usr/bin/python3"):
        script = f"exec {python} -c 'import stacker, xattr'"
        command = [*NOBODY, "sh", "-c", script]
        if subprocess.run(command, check=False, env=environment, cwd="/").returncode == 0:
            return python
    pytest.skip("no interpreter that nobody can start, or the package is in a closed directory")
