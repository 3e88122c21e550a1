"""Do one part of a pull alone.

    python -m benchmarks.parts PART DIRECTORY [BYTES BLOB]...

In: a part (``inflate``, ``hashes`` or ``write``), a directory to write to, and for each layer the
size of its tar and its blob.  Out: nothing; the command's time is the measurement.  Each layer has
a process, as in a pull.
"""

from __future__ import annotations

import hashlib
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.layout import Image
from benchmarks.peers import ROOT

PARTS = ("inflate", "hashes", "write")
_CHUNK = 512 * 1024


def command(part: str, image: Image, directory: Path) -> tuple[str, ...]:
    """Return the command that does one part for all layers of an image."""
    layers = (word for each in image.layers for word in (each.plain_bytes, image.blob(each)))
    return (sys.executable, "-m", "benchmarks.parts", part, str(directory), *map(str, layers))


def inflate(_: Path, size: int, blob: Path) -> None:
    """Inflate a gzip blob, and discard the tar."""
    from stacker.stream.compression import decompressed, read_chunks

    with blob.open("rb") as file:
        done = sum(map(len, decompressed(read_chunks(file), what=str(blob))))
    if done != size:
        raise ValueError(f"{blob}: got {done} bytes, want {size}")


def hashes(_: Path, size: int, blob: Path) -> None:
    """Compute the SHA-256 of the blob, and of as many bytes as the tar has."""
    with blob.open("rb") as file:
        hashlib.file_digest(file, "sha256")
    digest, chunk = hashlib.sha256(), os.urandom(_CHUNK)
    for _done in range(0, size, _CHUNK):
        digest.update(chunk)


def write(directory: Path, size: int, blob: Path) -> None:
    """Write as many bytes as the tar has to a new file."""
    chunk = os.urandom(_CHUNK)
    with (directory / blob.name).open("wb", buffering=0) as file:
        for _done in range(0, size, _CHUNK):
            file.write(chunk)


def main(part: str, directory: Path, layers: list[str]) -> None:
    work = dict(zip(PARTS, (inflate, hashes, write), strict=True))[part]
    pairs = list(zip(layers[::2], layers[1::2], strict=True))
    with ProcessPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        jobs = [pool.submit(work, directory, int(size), Path(blob)) for size, blob in pairs]
        for job in jobs:
            job.result()


if __name__ == "__main__":
    os.chdir(ROOT)
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
