"""Write deterministic tars: equal contents give equal bytes on every machine.

In: a directory on disk, or members made in memory.  Out: an uncompressed tar and its number of
entries.  This module does not compress and does not use images.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

EPOCH = 1_700_000_000
"""Every time stamp there is, in seconds."""


@dataclass(frozen=True, slots=True)
class LayerTar:
    """An uncompressed layer on disk and its number of entries."""

    path: Path
    entries: int


class Writer:
    """Add members to one tar; all belong to root and have the same time."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self.entries = 0

    def directory(self, name: str, mode: int = 0o755) -> None:
        """Add a directory."""
        self._add(self._info(name, tarfile.DIRTYPE, mode))

    def file(
        self, name: str, data: bytes, *, mode: int = 0o644, xattrs: Mapping[str, str] | None = None
    ) -> None:
        """Add a regular file with ``data``; ``xattrs`` by full name."""
        info = self._info(name, tarfile.REGTYPE, mode)
        info.size = len(data)
        info.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in (xattrs or {}).items()}
        self._add(info, data)

    def link(self, name: str, target: str) -> None:
        """Add a hard link to an earlier member."""
        info = self._info(name, tarfile.LNKTYPE, 0o644)
        info.linkname = target
        self._add(info)

    def symlink(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        info = self._info(name, tarfile.SYMTYPE, 0o777)
        info.linkname = target
        self._add(info)

    def copy(self, source: Path, name: str) -> None:
        """Add the file, directory or symbolic link at ``source``; skip any other type."""
        status = source.lstat()
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISDIR(status.st_mode):
            self.directory(name, mode)
        elif stat.S_ISLNK(status.st_mode):
            self.symlink(name, os.readlink(source))  # noqa: PTH115 - pathlib would normalise the target
        elif stat.S_ISREG(status.st_mode):
            info = self._info(name, tarfile.REGTYPE, mode)
            info.size = status.st_size
            with source.open("rb") as file:
                self._tar.addfile(info, file)
            self.entries += 1

    def _info(self, name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.mtime = kind, mode, EPOCH
        return info

    def _add(self, info: tarfile.TarInfo, data: bytes = b"") -> None:
        self._tar.addfile(info, io.BytesIO(data) if data else None)
        self.entries += 1


@contextmanager
def writing(path: Path) -> Iterator[Writer]:
    """Write a tar to ``path`` (POSIX pax format, extended headers only where needed)."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        yield Writer(tar)


def tree_tar(root: Path, prefix: str, path: Path) -> LayerTar:
    """Archive the directory ``root`` as ``prefix``, in the order of names."""
    with writing(path) as writer:
        for parent in _parents(prefix):
            writer.directory(parent)
        for source in _walk(root):
            writer.copy(source, f"{prefix}/{source.relative_to(root)}")
        return LayerTar(path, writer.entries)


def files_tar(files: Iterable[tuple[str, Path]], path: Path) -> LayerTar:
    """Archive single files under the given names."""
    with writing(path) as writer:
        for name, source in files:
            writer.copy(source, name)
        return LayerTar(path, writer.entries)


def _parents(prefix: str) -> list[str]:
    parts = prefix.split("/")
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def _walk(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
