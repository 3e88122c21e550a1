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
from stacker.linux.removal import remove_tree

_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Staging:
    """The directory ``staging/`` of a store."""

    root: Path

    @contextmanager
    def locked(self, name: str) -> Iterator[Path]:
        """Wait for the lock of a name, and return a path that does not exist yet.

        The end of the context removes the path, unless it was renamed.
        """
        path, beside = self.root / name, self.root / (name + _LOCK)
        with lock.exclusive(beside):
            try:
                _remove(path)
                yield path
            finally:
                _remove(path)
                beside.unlink(missing_ok=True)

    @contextmanager
    def directory(self, purpose: str) -> Iterator[Path]:
        """Return a new empty directory; the end of the context removes it.

        :param purpose: first part of its name.
        """
        with self.locked(f"{purpose}-{os.urandom(6).hex()}") as path:
            path.mkdir(mode=0o700)
            yield path

    @contextmanager
    def trash(self) -> Iterator[Callable[[Iterable[Path]], None]]:
        """Return a function that removes paths from the store by renaming them.

        The end of the context deletes them.  That takes long, so the caller releases its locks
        before it.
        """
        with self.directory("trash") as trash:
            numbers = count()

            def discard(paths: Iterable[Path]) -> None:
                for path in paths:
                    path.rename(trash / str(next(numbers)))

            yield discard

    def sweep(self) -> int:
        """Remove names that no process has locked.

        :returns: the number of removed paths.
        """
        swept = 0
        for name in sorted({entry.removesuffix(_LOCK) for entry in os.listdir(self.root)}):
            beside = self.root / (name + _LOCK)
            held = lock.try_exclusive(beside)
            if held is None:
                continue
            with held:
                swept += _remove(self.root / name)
                beside.unlink(missing_ok=True)
        return swept

    def unlocked(self) -> list[Path]:
        """Return what `sweep` would remove."""
        names = {entry.removesuffix(_LOCK) for entry in os.listdir(self.root)}
        paths = [self.root / name for name in sorted(names)]
        return [path for path in paths if path.exists() and not _is_locked(path)]


def _is_locked(path: Path) -> bool:
    try:
        held = lock.try_exclusive(path.with_name(path.name + _LOCK), create=False)
    except FileNotFoundError:
        return False
    if held is None:
        return True
    held.release()
    return False


def _remove(path: Path) -> bool:
    if path.is_symlink() or path.is_file():
        path.unlink()
        return True
    if path.is_dir():
        remove_tree(path)
        return True
    return False
