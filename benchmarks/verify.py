"""Measure `stacker verify` against SHA-256 of the same number of bytes on all processors.

In: the corpora ``mix`` (three layers), ``python-ml`` (one layer of large files) and ``app``
(two layers of small files).  Out: for each corpus and action its :class:`Usage`, and the load
average of the machine before it.  The files of the layers are in the page cache.

The SHA-256 has no files to open and no tar to rebuild: each thread hashes one buffer again and
again.  The last action is the CRC-32 of each file in memory, which a pull would have to compute to
name damaged files without an earlier `verify`.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from isal.isal_zlib import crc32

from benchmarks import corpora, figures
from benchmarks.figures import Figures
from benchmarks.layout import TAG, Image
from benchmarks.peers import ROOT, environment, stacker_command
from benchmarks.process import Usage, measured

CORPORA = ("mix", "python-ml", "app")
UNPACK, HASH, FULL, FAST = "pull", "sha256", "verify --all", "verify --all --fast"
UNPACK_EROFS, FULL_EROFS = "pull --form erofs", "verify --all (erofs)"
CHECKSUM = "CRC-32 of each file"
_BUFFER = 1 << 20


def compared(cache: Path, scratch: Path, *, size: str, repetitions: int) -> Iterator[Figures]:
    """Return a line of results for each corpus and action, alternating."""
    for name in CORPORA:
        image = corpora.image(name, "zstd", size=size, cache=cache)
        corpora.warm(image)
        actions = _actions(image, scratch / name, environment(scratch))
        runs: dict[str, list[Usage]] = {action: [] for action in actions}
        loads: list[float] = []
        for unpack in (UNPACK, UNPACK_EROFS):
            runs[unpack].append(actions.pop(unpack)())
        for _ in range(repetitions):
            loads.append(os.getloadavg()[0])
            for action, once in actions.items():
                runs[action].append(once())
        for action, mine in runs.items():
            yield {
                "corpus": name,
                "action": action,
                "layers": len(image.layers),
                "bytes": image.plain_bytes,
                "entries": image.entries,
                "load": max(loads),
                **figures.figures(mine),
            }


def _actions(image: Image, store: Path, environ: dict[str, str]) -> dict[str, Callable[[], Usage]]:
    def stacker(*words: str, store: Path = store) -> Callable[[], Usage]:
        command = stacker_command(store, *words)
        return lambda: measured(command, environment=environ, cwd=ROOT)

    pull, erofs = ("pull", "--quiet", "--no-sync"), store.with_name(f"{store.name}-erofs")
    return {
        UNPACK: stacker(*pull, f"oci:{image.layout}:{TAG}"),
        UNPACK_EROFS: stacker(*pull, "--form", "erofs", f"oci:{image.layout}:{TAG}", store=erofs),
        HASH: lambda: _hashed(image.plain_bytes),
        FULL: stacker("verify", "--all"),
        FAST: stacker("verify", "--all", "--fast"),
        FULL_EROFS: stacker("verify", "--all", store=erofs),
        CHECKSUM: lambda: _checksummed(store / "layers"),
    }


def _hashed(size: int) -> Usage:
    """Hash ``size`` bytes with one thread for each processor; hashlib releases Python's lock."""
    count = len(os.sched_getaffinity(0))
    buffer = os.urandom(_BUFFER)
    threads = [threading.Thread(target=_hash, args=(buffer, size // count)) for _ in range(count)]
    wall, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Usage(time.perf_counter() - wall, time.process_time() - cpu, _BUFFER)


def _hash(buffer: bytes, size: int) -> None:
    running = hashlib.sha256()
    for _ in range(size // len(buffer)):
        running.update(buffer)
    running.update(buffer[: size % len(buffer)])


def _checksummed(layers: Path) -> Usage:
    """Compute the CRC-32 of each file; only that counts, not the read of the file."""
    seconds, largest = 0.0, 0
    for above, _, names in os.walk(layers):
        for name in names:
            path = Path(above, name)
            if not path.is_file() or path.is_symlink():
                continue
            contents = memoryview(path.read_bytes())
            largest = max(largest, len(contents))
            before = time.thread_time()  # a load on the machine would add to the wall time
            crc32(contents)
            seconds += time.thread_time() - before
    return Usage(seconds, seconds, largest)
