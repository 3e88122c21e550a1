"""Read 4 KiB at random places of a tree.

    python -m benchmarks.reads LIST

In: a list that `choose` wrote.  Out: nothing; the command's time is the measurement.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

BLOCK = 4096
_READS, _SEED = 20_000, 11


def choose(top: Path, where: Path) -> None:
    """Write a list of random blocks of the regular files below ``top``.

    Trees with equal names and sizes give equal lists.
    """
    files: list[tuple[str, int]] = []
    for above, names, leaves in os.walk(top):
        names.sort()
        paths = (os.path.join(above, name) for name in sorted(leaves))  # noqa: PTH118 - 125,000 files
        files += [
            (path, os.stat(path).st_size // BLOCK)  # noqa: PTH116
            for path in paths
            if os.path.isfile(path) and not os.path.islink(path)  # noqa: PTH113, PTH114
        ]
    blocks = [(path, count) for path, count in files if count and "\n" not in path]
    source = random.Random(_SEED)
    chosen = source.choices(blocks, weights=[count for _, count in blocks], k=_READS)
    lines = (f"{source.randrange(count) * BLOCK} {path}\n" for path, count in chosen)
    where.write_text("".join(lines), errors="surrogateescape")


def read(where: Path) -> None:
    """Open each file of the list, and read its block."""
    for line in where.read_text(errors="surrogateescape").splitlines():
        offset, _, path = line.partition(" ")
        file = os.open(path, os.O_RDONLY)
        os.pread(file, BLOCK, int(offset))
        os.close(file)


if __name__ == "__main__":
    read(Path(sys.argv[1]))
