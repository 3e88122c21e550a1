"""A filesystem in an image file, whose power a test can cut.

In come a directory, an image's path and the filesystem's type.  The test mounts the image through
a loop device, cuts the power, and mounts it again, as after a boot.  Root must run it.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stacker.linux import mountinfo

_FS_IOC_SHUTDOWN: Final = 0x8004587D  # _IOR('X', 125, __u32), include/uapi/linux/fs.h and xfs_fs.h
_NO_LOG_FLUSH: Final = 2  # neither the journal nor data reach the disk
_SIZES: Final = {"ext4": 64 << 20, "xfs": 300 << 20}  # mkfs.xfs makes none below 300 MB
_PATIENCE: Final = 120  # seconds until the last user of the filesystem is gone


@dataclass(frozen=True)
class Disk:
    """A filesystem that loses what was not written when its power is cut.

    :param image: the image file, best on a tmpfs.
    :param path: the mount point.
    :param kind: ``ext4`` or ``xfs``.
    """

    image: Path
    path: Path
    kind: str

    def format(self) -> None:
        """Make the image and its filesystem."""
        self.path.mkdir(exist_ok=True)
        self.image.unlink(missing_ok=True)
        with self.image.open("wb") as file:
            file.truncate(_SIZES[self.kind])
        quiet = ["-q", "-F"] if self.kind == "ext4" else ["-q"]
        subprocess.run([f"mkfs.{self.kind}", *quiet, self.image], check=True)

    def mount(self) -> None:
        """Mount the image; the kernel replays the journal."""
        subprocess.run(["mount", "-o", "loop", self.image, self.path], check=True)

    def sync(self) -> None:
        """Write everything to the image."""
        subprocess.run(["sync", "-f", self.path], check=True)

    def commit_journal(self) -> None:
        """Commit the journal, but no data of other files, as another program's fsync does."""
        with (self.path / "neighbour").open("wb") as file:
            file.write(b"data of another program\n")
            file.flush()
            os.fsync(file.fileno())

    def cut_power(self) -> None:
        """Stop all writes at once; what is only in memory is lost."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, _FS_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def unmount(self) -> None:
        """Unmount, and wait until the kernel has released the image.

        :raises AssertionError: a process still uses the filesystem.
        """
        last = time.monotonic() + _PATIENCE
        # No os.path.ismount: xfs answers lstat with EIO once its power is cut.
        while mountinfo.at(self.path) is not None:
            done = subprocess.run(["umount", self.path], capture_output=True, check=False)
            assert done.returncode == 0 or time.monotonic() < last, done.stderr
            time.sleep(0.05)
        while _loop_devices(self.image):  # a mount namespace may have a copy of the mount
            assert time.monotonic() < last, f"{self.image} is still mounted elsewhere"
            time.sleep(0.05)

    def remove(self) -> None:
        """Unmount and delete the image."""
        self.unmount()
        self.image.unlink(missing_ok=True)


def _loop_devices(image: Path) -> str:
    done = subprocess.run(["losetup", "-j", image], capture_output=True, text=True, check=True)
    return done.stdout
