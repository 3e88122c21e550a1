"""Run a fuzzer on one target in a process of its own.

In come a target's name, seconds and a directory.  Out comes an `Outcome`.  Atheris is the fuzzer
where it is installed, Hypothesis elsewhere.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
_GRACE: Final = 120  # seconds for imports, and for the last input
_LAST: Final = 3000  # characters of output that explain a finding


@dataclass(frozen=True)
class Outcome:
    """What a fuzzer found in one target.

    :param finding: the end of the fuzzer's output; empty without a finding.
    """

    target: str
    engine: str
    inputs: int
    seconds: float
    finding: str


def engine() -> str:
    """Return the name of the fuzzer: ``atheris`` if it is installed, else ``hypothesis``."""
    return "atheris" if importlib.util.find_spec("atheris") else "hypothesis"


def fuzz(target: str, seconds: int, directory: Path) -> Outcome:
    """Fuzz a target for some seconds.

    :param directory: a directory for the corpus and for the input of a finding.
    """
    directory.mkdir(parents=True, exist_ok=True)
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="stacker-fuzz-", dir=memory) as temporary:
        return _fuzz(target, seconds, directory, {**os.environ, "TMPDIR": temporary})


def _fuzz(target: str, seconds: int, directory: Path, environ: dict[str, str]) -> Outcome:
    module = f"tests.fuzz.with_{engine()}"
    command = [sys.executable, "-m", module, target, str(seconds), str(directory)]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=seconds + _GRACE,
        )
    except subprocess.TimeoutExpired:
        return Outcome(target, engine(), 0, seconds, "the fuzzer does not end")
    ended = re.search(r"Done (\d+) runs? in", done.stdout)
    failed = done.returncode != 0 or ended is None
    finding = f"exit code {done.returncode}: {done.stdout[-_LAST:]}" if failed else ""
    return Outcome(target, engine(), int(ended[1]) if ended else 0, seconds, finding)
