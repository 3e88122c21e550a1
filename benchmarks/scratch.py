"""Create a new directory on one medium for each run, and remove it afterwards."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import filesystem, mounts_below

_MEMORY = Path("/dev/shm")
_PIECE = bytes(1 << 20)
_OWN_SIZE = 8 << 30
_UNMOUNT_ATTEMPTS = 40


@dataclass(frozen=True, slots=True)
class Medium:
    """A medium to unpack to: its name, and a directory on it.

    ``own`` is the type of a new filesystem that each run gets on a loop device.  On a used
    filesystem, earlier writes change the figures more than the peer does.
    """

    name: str
    directory: Path
    own: str | None = None

    @property
    def filesystem(self) -> str:
        """Return the filesystem's type."""
        return self.own or filesystem(self.directory)

    @property
    def is_disk(self) -> bool:
        """Return whether the medium is a disk, so that a sync takes time."""
        return self.name == "disk"

    def prepare(self, size: int) -> None:
        """Bring the medium into the same state before each run, which writes ``size`` bytes.

        On disk, flush earlier writes.  In memory, allocate ``size`` bytes once and free them: the
        host of a virtual machine reclaims unused pages (free page reporting), and faulting them
        in again costs a run more than its own work.
        """
        if self.is_disk:
            os.sync()
        with tempfile.TemporaryFile(dir=_MEMORY) as file:
            for _ in range(0, size, len(_PIECE)):
                file.write(_PIECE)

    @contextmanager
    def empty_directory(self) -> Iterator[Path]:
        """Yield an empty directory; afterwards unmount everything below it and remove it."""
        with tempfile.TemporaryDirectory(
            prefix="bench-", dir=self.directory, ignore_cleanup_errors=True
        ) as name:
            try:
                if self.own:
                    _mount_new(self.own, Path(name))
                yield Path(name) / "mount" if self.own else Path(name)
            finally:
                for point in mounts_below(Path(name)):
                    _unmount(point)
                subprocess.run(["find", name, "-mindepth", "1", "-delete"], check=False)


def _unmount(point: str) -> None:
    """Unmount; a process that a command left to flush its files may need an instant."""
    for _ in range(_UNMOUNT_ATTEMPTS):
        if subprocess.run(["umount", point], check=False, capture_output=True).returncode == 0:
            return
        time.sleep(0.25)


def _mount_new(kind: str, where: Path) -> None:
    """Create a filesystem in a file below ``where`` and mount it at ``where/mount``."""
    image, target = where / "image", where / "mount"
    target.mkdir()
    with image.open("wb") as file:
        file.truncate(_OWN_SIZE)
    # The file is all zeros, so mkfs need not zero tables, now or in the background.
    make = ["mkfs." + kind, "-q", "-F", "-i", "8192", "-E", "lazy_itable_init=1,nodiscard"]
    subprocess.run([*make, str(image)], check=True)
    options = "loop,noinit_itable"
    subprocess.run(["mount", "-t", kind, "-o", options, str(image), str(target)], check=True)


def media(disk: Path) -> dict[str, Medium]:
    """Return all media by name."""
    disk.mkdir(parents=True, exist_ok=True)
    return {
        "tmpfs": Medium("tmpfs", _MEMORY),
        "ext4": Medium("ext4", _MEMORY, own="ext4"),
        "disk": Medium("disk", disk),
    }
