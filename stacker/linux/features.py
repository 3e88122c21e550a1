"""Find out what a filesystem offers: unnamed files, reflinks, xattrs and fs-verity.

A directory comes in; an `Answer` goes out.  The functions create files without a name
(O_TMPFILE), which the kernel removes when they are closed.  This module must not know what the
features are for.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stacker.linux import verity, xattr
from stacker.linux.filesystem import reflink
from stacker.linux.mountapi import FileDescriptor
from stacker.linux.probe import Answer

if TYPE_CHECKING:
    from pathlib import Path

XATTR_NAMESPACES = ("user", "trusted", "security")
_BLOCK = 4096


def unnamed_file(directory: Path, content: bytes = b"") -> FileDescriptor:
    """Create a file without a name, open for reading and writing.

    :raises OSError: the filesystem is read-only, or has no such files; the error has the path.
    """
    flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
    file = FileDescriptor(os.open(directory, flags, 0o600))
    os.write(file.number, content)
    return file


def unnamed_files(directory: Path) -> Answer:
    """Return whether a directory takes files without a name."""
    with unnamed_file(directory):
        return Answer(works=True, reason="the filesystem has O_TMPFILE")


def reflinks(directory: Path) -> Answer:
    """Return whether files can share blocks."""
    with (
        unnamed_file(directory, bytes(_BLOCK)) as source,
        unnamed_file(directory) as target,
    ):
        if reflink(source.number, target.number):
            return Answer(works=True, reason="files can share blocks, which --dedup uses")
    return Answer(works=False, reason="the filesystem has no reflinks")


def xattrs(directory: Path, namespace: str) -> Answer:
    """Return whether this process can set the xattrs of a namespace.

    :param namespace: one of `XATTR_NAMESPACES`.
    """
    name = f"{namespace}.stacker".encode()
    with unnamed_file(directory) as file:
        xattr.set_value(file.number, name, b"y")
    return Answer(works=True, reason=f"this process sets {namespace}.* xattrs")


def fs_verity(directory: Path) -> Answer:
    """Return whether the kernel can check files at each read."""
    with unnamed_file(directory) as file:
        found = verity.is_supported(file.number)
    if found:
        return Answer(works=True, reason="the kernel can check files at each read")
    return Answer(works=False, reason="the filesystem or the kernel has no fs-verity")
