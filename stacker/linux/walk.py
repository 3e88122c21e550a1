"""Walk a tree of any depth, and return the status of each name in it.

A path comes in; the names below it go out with what lstat(2) reports.  A path in the tree can be
longer than PATH_MAX, and another process may remove files meanwhile.  This module reads no file.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from stacker.linux.syscall import PATH_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def walk(root: Path) -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield the path below `root` and the status of each name, ``b""`` for `root` itself.

    Directories of other mounts are omitted, and so are files that another process removes, also
    `root`.  Each hard link of a file is a name.
    """
    try:
        status = root.lstat()
    except FileNotFoundError:
        return
    yield b"", status
    left = [b""] if stat.S_ISDIR(status.st_mode) else []
    while left:
        above = left.pop()
        for name, entry in _scan(root, above):
            if entry.st_dev != status.st_dev:
                continue
            path = above + b"/" + name if above else name
            if stat.S_ISDIR(entry.st_mode):
                left.append(path)
            yield path, entry


def _scan(root: Path, below: bytes) -> list[tuple[bytes, os.stat_result]]:
    found: list[tuple[bytes, os.stat_result]] = []
    try:
        descriptor = open_directory(root, below)
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        found.append((os.fsencode(entry.name), status))
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except OSError as error:  # its path is relative, or a descriptor
        raise OSError(error.errno, error.strerror, str(root / os.fsdecode(below))) from error
    return found


def open_directory(root: Path, below: bytes) -> int:
    """Open a directory of a tree, whose path can be longer than PATH_MAX.

    :returns: a descriptor, which the caller closes.
    :raises OSError: a part of the path below `root` is missing or not a directory.
    """
    descriptor = os.open(root, _DIRECTORY)
    while below:
        cut = len(below) if len(below) < PATH_MAX else below.rindex(b"/", 0, PATH_MAX)
        part, below = below[:cut], below[cut + 1 :]
        try:
            deeper = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = deeper
    return descriptor
