"""Flush a store to disk after the command has answered.

A verb asks for it with `flush_later`; the process forks at its end, and the child writes the new
layers to disk while the caller's prompt is back.  A child that is killed does no harm: layers it
did not mark are verified after the next boot, before their first use.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_stores: list[Path] = []


def flush_later(root: Path) -> None:
    """Have the store at ``root`` flushed once the command has ended."""
    _stores.append(root)


def flush_now_in_background() -> None:
    """Fork a process that flushes what `flush_later` was called with; return at once."""
    if not _stores:
        return
    with suppress(OSError):  # no more processes: the next command flushes
        if os.fork() == 0:
            _flush()


def _flush() -> None:
    try:
        os.setsid()
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(null, standard)
        from stacker.operations.durability import flush
        from stacker.store.store import Store

        for root in _stores:
            flush(Store(root))
    finally:
        os._exit(0)
