"""Directories on their way into the store, one owner at a time.

A name in ``staging/`` is worked on by whoever holds the lock beside it.  What lies there and is
not locked is what a crash left, and is swept.
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
        """Wait until nobody else works on ``name``; give a path there that does not exist.

        What is still at that path when the context ends is removed.
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
        """Give an empty directory of the caller's own, removed when the context ends."""
        with self.locked(f"{purpose}-{os.urandom(6).hex()}") as path:
            path.mkdir(mode=0o700)
            yield path

    @contextmanager
    def trash(self) -> Iterator[Callable[[Iterable[Path]], None]]:
        """Give a function that takes paths out of the store at once.

        What it took is deleted when the context ends, which may last, so that no lock need be
        held meanwhile.
        """
        with self.directory("trash") as trash:
            numbers = count()

            def discard(paths: Iterable[Path]) -> None:
                for path in paths:
                    path.rename(trash / str(next(numbers)))

            yield discard

    def sweep(self) -> int:
        """Remove what nobody works on; say how many things there were."""
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


def _remove(path: Path) -> bool:
    if path.is_symlink() or path.is_file():
        path.unlink()
        return True
    if path.is_dir():
        remove_tree(path)
        return True
    return False
