"""Staging directories: unfinished work that a rename moves into the store.

`Staging` takes a name and returns a path, locked by a file next to it.  A name that no process
has locked is left from a crash, and `Staging.sweep` removes it.  This module does not depend on
the content.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from stacker.linux import lock
from stacker.linux.filesystem import file_identity
from stacker.linux.removal import remove_path

_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Staging:
    """The directory ``staging/`` of a store."""

    root: Path

    @contextmanager
    def locked(self, name: str) -> Iterator[Path]:
        """Wait for the lock of a name, and yield a path that does not exist yet.

        The end of the context removes the path, unless it was renamed.
        """
        path, beside = self.root / name, self.root / (name + _LOCK)
        with lock.exclusive(beside):
            try:
                remove_path(path)
                yield path
            finally:
                remove_path(path)
                beside.unlink(missing_ok=True)

    @contextmanager
    def directory(self, purpose: str) -> Iterator[Path]:
        """Yield a new empty directory; the end of the context removes it.

        :param purpose: first part of its name.
        """
        with self.locked(f"{purpose}-{os.urandom(6).hex()}") as path:
            path.mkdir(mode=0o700)
            yield path

    @contextmanager
    def trash(self) -> Iterator[Callable[[Iterable[Path]], None]]:
        """Yield a function that removes paths from the store by renaming them.

        The end of the context deletes them.  That takes long, so the caller releases its locks
        before it.
        """
        with self.directory("trash") as trash:
            numbers = count()

            def discard(paths: Iterable[Path]) -> None:
                for path in paths:
                    path.rename(trash / str(next(numbers)))

            yield discard

    def abandoned(self) -> Iterator[Path]:
        """Yield the paths that no process has locked, each locked until the next one."""
        for name in sorted({entry.removesuffix(_LOCK) for entry in os.listdir(self.root)}):
            path, beside = self.root / name, self.root / (name + _LOCK)
            held = lock.try_exclusive(beside)
            if held is None:
                continue
            with held:
                if file_identity(path) is not None:
                    yield path
                beside.unlink(missing_ok=True)

    def sweep(self) -> int:
        """Remove names that no process has locked.

        :returns: the number of removed paths.
        """
        return sum(map(remove_path, self.abandoned()))
