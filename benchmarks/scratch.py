"""Places to unpack into: a fresh directory on one medium, gone without a trace afterwards."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import filesystem, mounts_below

_MEMORY = Path("/dev/shm")
_PIECE = bytes(1 << 20)


@dataclass(frozen=True, slots=True)
class Medium:
    """What is unpacked to: ``tmpfs`` or ``disk``, and a directory there."""

    name: str
    directory: Path

    @property
    def filesystem(self) -> str:
        """Name the filesystem's type."""
        return filesystem(self.directory)

    @property
    def is_disk(self) -> bool:
        """Tell whether waiting for it means anything."""
        return self.name == "disk"

    def prepare(self, size: int) -> None:
        """Put every run on the same footing, which is about to write ``size`` bytes.

        On disk, wait for what others wrote.  In memory, use as much once and give it back: the
        host of a virtual machine takes unused pages away (free page reporting), and getting them
        again costs a run more than its own work does.
        """
        if self.is_disk:
            os.sync()
        with tempfile.TemporaryFile(dir=_MEMORY) as file:
            for _ in range(0, size, len(_PIECE)):
                file.write(_PIECE)

    @contextmanager
    def room(self) -> Iterator[Path]:
        """Give an empty directory; take it away with all that was mounted and made in it."""
        with tempfile.TemporaryDirectory(
            prefix="bench-", dir=self.directory, ignore_cleanup_errors=True
        ) as name:
            try:
                yield Path(name)
            finally:
                for point in mounts_below(Path(name)):
                    subprocess.run(["umount", point], check=False, capture_output=True)
                subprocess.run(["find", name, "-mindepth", "1", "-delete"], check=False)


def media(disk: Path) -> dict[str, Medium]:
    """Give both media by name."""
    disk.mkdir(parents=True, exist_ok=True)
    return {"tmpfs": Medium("tmpfs", _MEMORY), "disk": Medium("disk", disk)}
