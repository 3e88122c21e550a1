"""Run a fuzzer on one target in a process of its own.

In come a target's name, seconds and a directory.  Out comes an `Outcome`.  Atheris is the fuzzer
where it is installed, Hypothesis elsewhere.
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
_GRACE: Final = 120  # seconds for imports, and for the last input
_ABORT: Final = 30  # seconds to write the input of a finding
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
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        code = wait(process, seconds + _GRACE)
        output.seek(0)
        text = output.read()
    ended = re.search(r"Done (\d+) runs? in", text)
    failed = code != 0 or ended is None
    finding = f"exit code {code}: {text[-_LAST:]}" if failed else ""
    return Outcome(target, engine(), int(ended[1]) if ended else 0, seconds, finding)


def wait(process: subprocess.Popen[bytes], seconds: float) -> int:
    """Wait for the end of a process; return its exit code.

    A process that takes longer is aborted, so that libFuzzer writes the input.  Only seconds count
    in which this process runs, too: a virtual machine can stand still for half an hour.  While the
    process waits for a processor, its own processor time counts: on a busy machine, it may get only
    a few seconds in many minutes.
    """
    used = _processor_seconds(process.pid)
    while seconds > 0:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(1)
        before, used = used, _processor_seconds(process.pid)
        seconds -= used - before if _is_runnable(process.pid) else 1
    process.send_signal(signal.SIGABRT)
    try:
        return process.wait(_ABORT)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _processor_seconds(pid: int) -> float:
    user, system = map(int, _stat(pid)[11:13])
    return (user + system) / os.sysconf("SC_CLK_TCK")


def _is_runnable(pid: int) -> bool:
    return _stat(pid)[0] == "R"


def _stat(pid: int) -> list[str]:
    """Return the fields of proc_pid_stat(5) from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
