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
_OWN_SIZE = 8 << 30


@dataclass(frozen=True, slots=True)
class Medium:
    """What is unpacked to: a name for it, and a directory there.

    ``own`` is the type of a filesystem that every room has for itself, new, on a loop device: what
    happened on a used one decides more than who writes to it now.
    """

    name: str
    directory: Path
    own: str | None = None

    @property
    def filesystem(self) -> str:
        """Name the filesystem's type."""
        return self.own or filesystem(self.directory)

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
                if self.own:
                    _mount_new(self.own, Path(name))
                yield Path(name) / "room" if self.own else Path(name)
            finally:
                for point in mounts_below(Path(name)):
                    subprocess.run(["umount", point], check=False, capture_output=True)
                subprocess.run(["find", name, "-mindepth", "1", "-delete"], check=False)


def _mount_new(kind: str, where: Path) -> None:
    """Make a filesystem in a file below ``where`` and mount it at ``where/room``."""
    image, room = where / "image", where / "room"
    room.mkdir()
    with image.open("wb") as file:
        file.truncate(_OWN_SIZE)
    # The file is all zeros, so nothing needs to be zeroed now or later in the background.
    make = ["mkfs." + kind, "-q", "-F", "-i", "8192", "-E", "lazy_itable_init=1,nodiscard"]
    subprocess.run([*make, str(image)], check=True)
    options = "loop,noinit_itable"
    subprocess.run(["mount", "-t", kind, "-o", options, str(image), str(room)], check=True)


def media(disk: Path) -> dict[str, Medium]:
    """Give all media by name."""
    disk.mkdir(parents=True, exist_ok=True)
    return {
        "tmpfs": Medium("tmpfs", _MEMORY),
        "ext4": Medium("ext4", _MEMORY, own="ext4"),
        "disk": Medium("disk", disk),
    }
