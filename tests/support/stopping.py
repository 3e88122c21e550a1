"""Stop a command of this program at a chosen moment, and run others to their end meanwhile.

Python raises an audit event before most system calls that name a file (docs.python.org, "Audit
events table"), so a test can stop a command before each of them in turn.  Another command that then
waits for a lock of the stopped one ends after it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.command import PATIENCE

Command = Callable[[], int]
"""Runs a command in this process, and returns its exit code."""
_ALWAYS = frozenset(
    {"ctypes.call_function", "fcntl.fcntl", "fcntl.flock", "os.remove", "os.rename", "os.rmdir"}
)
_BY_PATH = frozenset({"open", "os.link", "os.listdir", "os.mkdir", "os.scandir", "os.symlink"})
_LOCKS = {"x86_64": ("72", "73"), "aarch64": ("25", "32")}  # fcntl(2), flock(2)
_PAUSED, _ENDED = b"P", b"E"


@dataclass(frozen=True)
class Moment:
    """A moment of a command.

    :param number: of a file operation below `place`, from 1.
    :param place: the directory whose operations count.
    :param in_worker: count the operations of a worker process, not those of the command itself.
    """

    number: int
    place: Path
    in_worker: bool = False


def run_while_stopped(
    stopped: Command, others: Sequence[Command], moment: Moment
) -> list[int] | None:
    """Stop a command, run others one after another, resume the first, and wait for all.

    A command that waits for a lock of the stopped one resumes with it, and those after it wait.

    :returns: the exit codes, that of the stopped command first; ``None`` if it ended before the
        moment.
    """
    reached, says = os.pipe()
    resume, resumes = os.pipe()
    try:
        first = _fork(lambda: _stopping(stopped, moment, says, resume))
        if os.read(reached, 1) == _ENDED:
            _wait(first)
            return None
        second = _fork(lambda: _first_failure(others))
        _wait_until_ended_or_locked(second)
        os.write(resumes, b"1")
        return [_wait(first), _wait(second)]
    finally:
        for descriptor in (reached, says, resume, resumes):
            os.close(descriptor)


def _first_failure(commands: Sequence[Command]) -> int:
    return next(filter(None, (command() for command in commands)), 0)


def _fork(command: Command) -> int:
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for standard in range(2):
            os.dup2(null, standard)
        code = command()
    finally:
        os._exit(code)


def _stopping(command: Command, moment: Moment, says: int, resume: int) -> int:
    main, count, place = os.getpid(), 0, str(moment.place)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event not in _ALWAYS and not (event in _BY_PATH and _is_below(arguments, place)):
            return
        if moment.in_worker == (os.getpid() == main):
            return
        count += 1
        if count == moment.number:
            os.write(says, _PAUSED)
            os.read(resume, 1)

    sys.addaudithook(hook)
    code = command()
    count = moment.number
    os.write(says, _ENDED)
    return code


def _is_below(arguments: Sequence[object], place: str) -> bool:
    paths = (each for each in arguments if isinstance(each, str | bytes | os.PathLike))
    return any(os.fsdecode(path).startswith(place) for path in paths)


def _wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _wait_until_ended_or_locked(child: int) -> None:
    end = time.monotonic() + PATIENCE
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if any(map(_waits_for_a_lock, _family(child))):
            return
        assert time.monotonic() < end, "the command neither ended nor waited for a lock"
        os.sched_yield()


def _family(process: int) -> list[int]:
    """Return a process and its descendants."""
    found = [process]
    for each in found:
        with suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, Path(f"/proc/{each}/task/{each}/children").read_text().split())
    return found


def _waits_for_a_lock(process: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        words = Path(f"/proc/{process}/syscall").read_text().split()
        return words[0] in _LOCKS[os.uname().machine]
    return False
