"""Measure `stacker verify` against SHA-256 of the same number of bytes on all processors.

In: the corpora ``mix`` (three layers), ``python-ml`` (one layer of large files) and ``app``
(two layers of small files) on the first medium, and ``mix`` on all others.  Out: for each corpus,
medium and action its :class:`Usage`, and the load average of the machine before it.  The files of
the layers are in the page cache.

The SHA-256 has no files to open and no tar to rebuild: each thread hashes one buffer again and
again.  `STREAMS` hashes as many bytes as each layer has with one thread: no program can compute a
diff_id with two.  `READ` opens, reads and closes each file of the trees, without a hash, in a
process for each processor.  `FIRST_EROFS` is a verification that builds the indexes again.  The
last action is the CRC-32 of each file in memory, which a pull would have to compute to name damaged
files without an earlier `verify`.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue

from isal.isal_zlib import crc32

from benchmarks import corpora, figures
from benchmarks.figures import Figures
from benchmarks.layout import TAG, Image
from benchmarks.peers import ROOT, environment, stacker_command
from benchmarks.process import Usage, measured
from benchmarks.scratch import Medium

CORPORA = ("mix", "python-ml", "app")
UNPACK, HASH, FULL, FAST = "pull", "sha256", "verify --all", "verify --all --fast"
UNPACK_EROFS, FULL_EROFS = "pull --form erofs", "verify --all (erofs)"
FIRST_EROFS = "verify --all (erofs, first)"
STREAMS, READ = "sha256, a thread for each layer", "open, read and close each file"
CHECKSUM = "CRC-32 of each file"
_BUFFER, _PIECE = 1 << 20, 1 << 17
_PROCESSORS = len(os.sched_getaffinity(0))


def compared(
    cache: Path, media: Sequence[Medium], *, size: str, repetitions: int
) -> Iterator[Figures]:
    """Return a line of results for each medium, corpus and action, alternating."""
    for medium in media:
        for name in CORPORA if medium is media[0] else CORPORA[:1]:
            with medium.empty_directory() as scratch:
                what: Figures = {"medium": medium.name, "filesystem": medium.filesystem}
                for line in _on(cache, scratch, name, size=size, repetitions=repetitions):
                    yield what | line


def _on(cache: Path, scratch: Path, name: str, *, size: str, repetitions: int) -> Iterator[Figures]:
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
    again = stacker("verify", "--all", store=erofs)

    def first() -> Usage:
        for path in erofs.glob("*/sha256/*/index.sha256"):
            path.unlink()
        return again()

    return {
        UNPACK: stacker(*pull, f"oci:{image.layout}:{TAG}"),
        UNPACK_EROFS: stacker(*pull, "--form", "erofs", f"oci:{image.layout}:{TAG}", store=erofs),
        HASH: lambda: _hashed([image.plain_bytes // _PROCESSORS] * _PROCESSORS),
        STREAMS: lambda: _hashed(
            sorted((layer.plain_bytes for layer in image.layers), reverse=True)
        ),
        READ: lambda: _read(store / "layers"),
        FULL: stacker("verify", "--all"),
        FAST: stacker("verify", "--all", "--fast"),
        FIRST_EROFS: first,
        FULL_EROFS: again,
        CHECKSUM: lambda: _checksummed(store / "layers"),
    }


def _hashed(sizes: Sequence[int]) -> Usage:
    """Hash as many bytes as each size says, each size in one thread of several.

    There is a thread for each processor; hashlib releases Python's lock.
    """
    buffer, waiting = os.urandom(_BUFFER), SimpleQueue[int]()
    for size in sizes:
        waiting.put(size)

    def work() -> None:
        while True:
            try:
                size = waiting.get_nowait()
            except Empty:
                return
            _hash(buffer, size)

    threads = [threading.Thread(target=work) for _ in range(_PROCESSORS)]
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


def _read(layers: Path) -> Usage:
    """Open, read and close each file once, in a process for each processor."""
    paths = [os.fsencode(path) for path in _files(layers)]
    before, wall = os.times(), time.perf_counter()
    children = [_forked(paths[first::_PROCESSORS]) for first in range(_PROCESSORS)]
    for child in children:
        os.waitpid(child, 0)
    wall, after = time.perf_counter() - wall, os.times()
    spent = after.children_user + after.children_system
    return Usage(wall, spent - before.children_user - before.children_system, _BUFFER)


def _forked(paths: Sequence[bytes]) -> int:
    child = os.fork()
    if not child:
        for path in paths:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOATIME)
            while os.read(descriptor, _PIECE):
                pass
            os.close(descriptor)
        os._exit(0)
    return child


def _files(layers: Path) -> Iterator[Path]:
    """Yield the regular files below a directory."""
    for above, _, names in os.walk(layers):
        for name in names:
            path = Path(above, name)
            if path.is_file() and not path.is_symlink():
                yield path


def _checksummed(layers: Path) -> Usage:
    """Compute the CRC-32 of each file; only that counts, not the read of the file."""
    seconds, largest = 0.0, 0
    for path in _files(layers):
        contents = memoryview(path.read_bytes())
        largest = max(largest, len(contents))
        before = time.thread_time()  # a load on the machine would add to the wall time
        crc32(contents)
        seconds += time.thread_time() - before
    return Usage(seconds, seconds, largest)
