"""Unpack layers for tests, and check the properties of every unpacked layer.

The skeleton and the tree together give the original tar, bit for bit.  The skeleton alone gives the
same entries.  The record survives a round trip through JSON.  Unpacking leaves no descriptor open
and changes nothing outside the layer's directory.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stacker.errors import LayerError
from stacker.layer.apply import apply
from stacker.layer.metadata import IDENTITY, SQUASH, IdMap
from stacker.layer.paths import LayerPaths
from stacker.layer.record import LayerRecord
from stacker.layer.skeleton import SkeletonWriter, open_skeleton, reassemble
from stacker.layer.whiteout_format import WhiteoutFormat, is_whiteout
from stacker.tar.entry import Directory, Entry, File, HardLink, Special, Symlink
from stacker.tar.limits import UNLIMITED, Limits
from stacker.tar.reader import TarReader
from tests.support.indexes import assert_index_equals_tree, index_of
from tests.support.tars import tar

IS_ROOT = os.geteuid() == 0
FORMAT = WhiteoutFormat.TRUSTED if IS_ROOT else WhiteoutFormat.USER
IDMAP = IDENTITY if IS_ROOT else SQUASH
SECRET = b"not yours"
_MAX_COMPARED = 2_000
"""The number of entries up to which the index is compared with the tree."""
_MOST_BYTES = 1 << 30
"""The size of files up to which it is compared: the comparison reads holes, too."""

needs_root = pytest.mark.skipif(not IS_ROOT, reason="needs root: owners, devices, trusted.*")


def chunked(stream: bytes, size: int | None = None) -> Iterator[bytes]:
    """Return a stream in pieces of ``size`` bytes."""
    size = size or max(1, len(stream))
    return (stream[at : at + size] for at in range(0, len(stream), size))


def entries_of(
    stream: bytes, *, limits: Limits | None = None, chunk: int | None = None
) -> list[Entry]:
    """Return the entries of a stream."""
    return list(TarReader(chunked(stream, chunk), what="test", limits=limits))


def only_entry(stream: bytes) -> Entry:
    """Parse a stream that has one entry."""
    [entry] = entries_of(stream)
    return entry


def payloads(stream: bytes, chunk: int | None = None) -> list[bytes]:
    """Return the content of each entry of a stream."""
    reader = TarReader(chunked(stream, chunk), what="test")
    return [b"".join(bytes(piece) for piece in reader.payload()) for _ in reader]


def path_of(stream: bytes) -> bytes:
    """Return the path of a stream's only entry, which must not be a whiteout."""
    entry = only_entry(stream)
    assert isinstance(entry, File | Directory | Symlink | HardLink | Special)
    return entry.path


@dataclass(frozen=True)
class Unpacked:
    """A layer on disk."""

    paths: LayerPaths
    record: LayerRecord

    @property
    def diff(self) -> Path:
        return self.paths.diff

    @property
    def skeleton(self) -> Path:
        return self.paths.skeleton

    def path_of(self, path: str | bytes) -> bytes:
        return os.fsencode(self.diff) + b"/" + os.fsencode(path)

    def stat(self, path: str | bytes) -> os.stat_result:
        return os.lstat(self.path_of(path))

    def mode(self, path: str | bytes) -> int:
        return stat.S_IMODE(self.stat(path).st_mode)

    def read(self, path: str | bytes) -> bytes:
        with open(self.path_of(path), "rb") as file:
            return file.read()

    def target(self, path: str | bytes) -> bytes:
        return os.readlink(self.path_of(path))

    def xattr(self, path: str | bytes, name: str) -> bytes:
        return os.getxattr(self.path_of(path), name, follow_symlinks=False)

    def xattrs(self, path: str | bytes) -> set[str]:
        return set(os.listxattr(self.path_of(path), follow_symlinks=False))

    def exists(self, path: str | bytes) -> bool:
        return os.path.lexists(self.path_of(path))

    def is_directory(self, path: str | bytes) -> bool:
        return stat.S_ISDIR(self.stat(path).st_mode)

    def is_whiteout(self, path: str | bytes) -> bool:
        return self.exists(path) and is_whiteout(self.stat(path))

    def is_opaque(self, path: str | bytes = b"") -> bool:
        return self.record.whiteout_format.is_opaque(self.path_of(path))

    def names(self) -> set[bytes]:
        """Return every path of the tree, whiteouts included."""
        top = os.fsencode(self.diff)
        return {
            os.path.join(above, name)[len(top) + 1 :]
            for above, directories, files in os.walk(top)
            for name in (*directories, *files)
        }

    def reassembled(self) -> bytes:
        return b"".join(reassemble(self.paths, self.record, what="test"))


class Workspace:
    """A directory for layers, next to a file that no layer may change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.secret = path / "secret"
        self.secret.write_bytes(SECRET)
        self._count = 0

    def unpack(
        self,
        *parts: bytes,
        whiteout_format: WhiteoutFormat = FORMAT,
        idmap: IdMap = IDMAP,
        limits: Limits | None = None,
        chunk: int | None = None,
        end: bool = True,
    ) -> Unpacked:
        """Unpack a layer made of ``parts``, and check its properties."""
        stream = tar(*parts, end=end)
        self._count += 1
        paths = LayerPaths(self.path / f"layer{self._count}")
        paths.diff.mkdir(parents=True, mode=0o700)
        before = self._outside()
        try:
            with paths.skeleton.open("wb") as file:
                skeleton = SkeletonWriter(file)
                reader = TarReader(
                    chunked(stream, chunk), what="test", limits=limits, keep=skeleton.keep
                )
                record = apply(
                    reader,
                    paths.diff,
                    replaced=paths.replaced,
                    whiteout_format=whiteout_format,
                    idmap=idmap,
                    limits=limits,
                )
                skeleton.finish()
        finally:
            assert self._outside() == before, "a file outside the layer changed"
        unpacked = Unpacked(paths, record)
        assert unpacked.reassembled() == stream
        with open_skeleton(unpacked.skeleton, what="test") as again:
            assert list(again) == entries_of(stream, limits=limits)
        assert LayerRecord.from_json(record.to_json(), "test") == record
        if record.entries > _MAX_COMPARED or record.file_bytes > _MOST_BYTES:
            return unpacked
        tar_path = paths.root / "layer.tar"
        try:
            index, other = index_of(
                stream, tar_path, whiteout_format=whiteout_format, idmap=idmap, limits=UNLIMITED
            )
        except LayerError as error:
            if error.hint == "use the form `tree` for this image":
                return unpacked
            raise
        assert_index_equals_tree(index, tar_path, paths.diff, record, other)
        return unpacked

    def _outside(self) -> object:
        return (
            sorted(os.listdir(self.path)),
            self.secret.read_bytes(),
            os.lstat(self.secret).st_nlink,
            os.lstat(self.secret).st_mtime_ns,
            len(os.listdir("/proc/self/fd")),
        )
