"""Helpers of the cases: an expected errno, the clock, and changes of a status."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

CLOCK_REALTIME_COARSE: Final = 5

missing_paths = pytest.mark.parametrize(
    ("path", "number"),
    [
        ("missing", errno.ENOENT),
        ("dangling", errno.ENOENT),
        ("file/x", errno.ENOTDIR),
        ("loop", errno.ELOOP),
        ("n" * 256, errno.ENAMETOOLONG),
    ],
    ids=lambda value: str(value)[:12],
)
"""Runs a case with invalid paths and their errno."""


@contextmanager
def fails(*numbers: int) -> Iterator[None]:
    """Expect this errno, or one of several where POSIX allows a choice."""
    with pytest.raises(OSError) as caught:
        yield
    got = caught.value.errno or 0
    wanted = "/".join(errno.errorcode[number] for number in numbers)
    assert got in numbers, f"got {errno.errorcode.get(got)}, want {wanted}"


def next_tick() -> None:
    """Wait until the coarse clock of timestamps passes the current time."""
    now = time.time_ns()
    while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) <= now:
        pass


@contextmanager
def changing(path: Path, *, times: str) -> Iterator[None]:
    """Expect exactly these times of a file to change: ``mtime ctime``, ``ctime`` or nothing.

    A ctime cannot be set, so this waits for the clock first.
    """
    before = path.lstat()
    next_tick()
    yield
    after = path.lstat()
    moved = {
        name
        for name, old, new in (
            ("mtime", before.st_mtime_ns, after.st_mtime_ns),
            ("ctime", before.st_ctime_ns, after.st_ctime_ns),
        )
        if new > old
    }
    assert moved == set(times.split()), f"{path.name}: changed {moved}, want {times!r}"
    for new in (after.st_mtime_ns, after.st_ctime_ns):
        assert new <= time.time_ns()


@contextmanager
def opened(path: Path | bytes, flags: int, mode: int = 0o666) -> Iterator[int]:
    """Yield a descriptor, and close it afterwards."""
    descriptor = os.open(path, flags, mode)
    try:
        yield descriptor
    finally:
        with suppress(OSError):
            os.close(descriptor)


@dataclass(frozen=True)
class Call:
    """An operation on a name in a directory, with an ID for parametrized tests."""

    name: str
    run: Callable[[Path], object]

    def __str__(self) -> str:
        return self.name


def touch(path: Path) -> None:
    """Make an empty file."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))


def names(path: Path) -> set[str]:
    """Return the names in a directory."""
    found = os.listdir(path)
    assert len(found) == len(set(found)), "a name is listed twice"
    return set(found)
