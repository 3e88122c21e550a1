"""Measure a command: wall time, processor time and memory of all its processes.

In: a command, and the daemons that work for it.  Out: a :class:`Usage`.

Processor time is user plus system time of the command and of every process it waited for, plus
what its daemons and their children used meanwhile.  Kernel threads, such as writeback, count in the
wall time only.  Memory is the largest sum of resident sets in samples taken twenty times a second,
more often at first.  A shared page counts once for each process, so the sum is an upper bound.
Control groups would also count the page cache, and with it every file in a tmpfs.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_EVERY = 0.05
_EVERY_AT_FIRST = 0.005
_AT_FIRST = 40
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


class FailedError(Exception):
    """A measured command failed; the message has its last line of output."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Seconds of wall and processor time, and bytes of memory."""

    wall: float
    cpu: float
    peak_rss: int


def measured(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    daemons: Sequence[int] = (),
    cwd: Path | None = None,
) -> Usage:
    """Run ``command`` to its end and return its usage.

    :param daemons: earlier processes that do part of the work.
    :raises FailedError: its exit status is not 0.
    """
    before = _cpu_of(daemons)
    started = time.perf_counter()
    with subprocess.Popen(
        command,
        env=dict(environment),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        watch = _Watch([process.pid, *daemons])
        said = process.stderr.read() if process.stderr else b""
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        peak = watch.end()
    if process.returncode:
        lines = said.decode(errors="replace").strip().splitlines() or ["said nothing"]
        raise FailedError(f"{command[0]}: exit status {process.returncode}: {lines[-1][:300]}")
    cpu = used.ru_utime + used.ru_stime + _used(before, _cpu_of(daemons))
    return Usage(wall, cpu, peak)  # ru_maxrss would start at this process's own size


class _Watch:
    """A thread that samples a tree of processes until it is stopped."""

    def __init__(self, roots: Sequence[int]) -> None:
        self._roots = roots
        self._peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def end(self) -> int:
        self._over.set()
        self._thread.join()
        return self._peak

    def _look(self) -> None:
        for look in itertools.count():
            resident = sum(_resident(pid) for root in self._roots for pid in _tree(root))
            self._peak = max(self._peak, resident)
            if self._over.wait(_EVERY if look > _AT_FIRST else _EVERY_AT_FIRST):
                return


def _tree(root: int) -> Iterator[int]:
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        yield pid
        try:
            tasks = list((_PROC / str(pid) / "task").iterdir())
        except OSError:
            continue
        for task in tasks:
            waiting += map(int, _text(task / "children").split())


def _resident(pid: int) -> int:
    fields = _text(_PROC / str(pid) / "statm").split()
    return int(fields[1]) * _PAGE if fields else 0


def _cpu_of(pids: Sequence[int]) -> dict[int, float]:
    """Return the user and system seconds of each process, and of its children, living or reaped.

    A process that is a child of another one counts once, with its parent.
    """
    trees = {root: set(_tree(root)) for root in pids}
    inner = {pid for root, tree in trees.items() for pid in tree if pid != root}
    return {root: sum(map(_cpu, tree)) for root, tree in trees.items() if root not in inner}


def _cpu(pid: int) -> float:
    # The name in brackets may hold spaces; utime, stime, cutime and cstime are fields 14 to 17
    # (proc_pid_stat(5)).
    fields = _text(_PROC / str(pid) / "stat").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS


def _used(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """Return the seconds between two results of `_cpu_of`; those of a process that ended are 0."""
    return sum(max(0, after.get(pid, 0) - seconds) for pid, seconds in before.items())


def _text(path: Path) -> str:
    """Read a file of /proc; return an empty string if the process ended."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
