"""Flush a store to disk after the command has answered.

A verb calls `flush_later`.  At its end, the process forks; the child writes the new layers to disk
while the parent exits.  A shutdown sends SIGTERM to all processes and waits for them before it
unmounts filesystems, so the child ignores SIGTERM, and an orderly shutdown ends with all layers
marked.  If the child is killed, its layers stay unmarked, and stacker verifies them after the next
boot, before their first use.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_stores: list[Path] = []


def flush_later(root: Path) -> None:
    """Register the store at ``root`` for a flush at the end of the command."""
    _stores.append(root)


def flush_now_in_background() -> None:
    """Fork a process that flushes the registered stores; do not wait for it."""
    if not _stores:
        return
    with suppress(OSError):  # no more processes: the next command flushes
        if os.fork() == 0:
            _flush()


def _flush() -> None:
    try:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
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
