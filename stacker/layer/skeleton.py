"""Write a layer's skeleton, and reproduce the layer's tar from it.

A skeleton is the tar without file contents, compressed with zstd.  While a layer is unpacked, every
byte of its tar comes in except file contents.  Later the entries go out without a walk of the tree,
or the whole tar bit for bit, so that a diff_id can be computed from the disk.  This module must not
compute digests.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, Protocol, Self

from isal.isal_zlib import crc32

from stacker.errors import IntegrityError, LayerError, StackerError
from stacker.layer.checksums import FileContents, ranges, read_checksums, wrong_contents
from stacker.layer.paths import LayerPaths
from stacker.layer.record import LayerRecord, Replacement
from stacker.linux.opath import open_below
from stacker.stream.compression import CHUNK, decompressed, read_chunks
from stacker.tar.entry import Entry, File, printable
from stacker.tar.limits import UNLIMITED
from stacker.tar.reader import TarReader

_LEVEL: Final = 1
_PARTS: Final = 1024
_FEW: Final = 256  # parts, mostly headers and small files, that are joined before they are yielded
_PIECE: Final = CHUNK // 4
_SMALL: Final = CHUNK // 4
"""A piece should still be in the cache of a processor when another thread hashes it."""
# O_NOATIME saves a write to each inode; the kernel grants it to the file's owner and to root.
_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOATIME
_TREE: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class SkeletonWriter:
    """Compresses skeleton bytes into ``file``; :meth:`keep` is the callback of a `TarReader`."""

    def __init__(self, file: BinaryIO) -> None:
        import zstandard

        self._file = file
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL).compressobj()
        self._parts: list[bytes] = []

    def keep(self, data: bytes) -> None:
        """Add the next bytes."""
        parts = self._parts
        parts.append(data)
        if len(parts) >= _PARTS or len(data) > CHUNK // 2:
            self._file.write(self._compressor.compress(b"".join(parts)))
            parts.clear()

    def finish(self) -> None:
        """Write the buffered bytes and end the zstd frame."""
        self._file.write(self._compressor.compress(b"".join(self._parts)))
        self._parts.clear()
        self._file.write(self._compressor.flush())


class SkeletonReader(TarReader):
    """Iterates over the entries of a skeleton; a payload is a hole."""

    def write_payload(self, fd: int, length: int) -> None:
        """Make the file ``length`` bytes longer."""
        os.ftruncate(fd, os.lseek(fd, 0, os.SEEK_CUR) + length)


@contextmanager
def open_skeleton(path: Path, *, what: str) -> Iterator[SkeletonReader]:
    """Open the skeleton ``path`` and yield a reader of its entries.

    :param what: the name of the layer in errors.
    :raises OSError: the skeleton cannot be opened.
    """
    with path.open("rb") as file:
        yield _elided(file, what)


class Observer(Protocol):
    """Sees the entries and the files of a layer while the layer is reassembled."""

    def entries(self, entries: Iterator[Entry]) -> Iterator[Entry]:
        """Return the same entries."""

    def compare(self, entry: File, descriptor: int) -> None:
        """See a file that was opened to be read."""


def reassemble(
    paths: LayerPaths,
    record: LayerRecord,
    *,
    what: str,
    checksum: Callable[[int], object] | None = None,
    observer: Observer | None = None,
) -> Iterator[bytes]:
    """Yield the layer's tar stream, from its skeleton and its tree.

    :param what: the name of the layer in errors.
    :param checksum: called with the CRC-32 of each range of data, in the order of the tar.
    :param observer: sees each entry, and each file before it is read.
    :raises IntegrityError: a file is missing or has another length, or the skeleton is damaged.
    :raises OSError: the disk cannot read a file.
    """
    try:
        yield from _reassembled(paths, record, what, checksum, observer)
    except LayerError as error:
        raise IntegrityError(f"damaged skeleton: {error}") from error


def _reassembled(
    paths: LayerPaths,
    record: LayerRecord,
    what: str,
    checksum: Callable[[int], object] | None,
    observer: Observer | None,
) -> Iterator[bytes]:
    parts: list[bytes] = []
    ready, locations = 0, FileLocations(record)
    with paths.skeleton.open("rb") as file, _Files(paths, what, observer) as files:
        reader, small = _elided(file, what, parts.append), files.small
        for entry in iter(reader) if observer is None else observer.entries(iter(reader)):
            if type(entry) is File:
                location = locations.find(reader.count - 1, entry.path)
                whole = small(entry, location) if entry.size <= _SMALL else None
                if whole is None:
                    yield b"".join(parts)
                    parts.clear()
                    ready = 0
                    yield from files.payload(entry, location, checksum)
                else:
                    parts.append(whole)
                    ready += entry.size
                    if checksum is not None:
                        checksum(crc32(whole))
                if ready < _PIECE and len(parts) < _FEW:
                    continue
            elif len(parts) < _FEW:
                continue
            yield b"".join(parts)
            parts.clear()
            ready = 0
    if reader.count != record.entries:  # zstd does not report a truncated frame
        raise IntegrityError(
            f"damaged skeleton: {what}: got {reader.count} entries, want {record.entries}"
        )
    yield b"".join(parts)


def damaged_files(
    paths: LayerPaths, record: LayerRecord, *, what: str
) -> Iterator[tuple[bytes, str, str]]:
    """Yield each file with the wrong contents: its path, what it has and what it should have.

    These are the files that cannot be read and, if `verify` has found the layer sound before,
    those with another checksum.

    :param what: the name of the layer in errors.
    :raises LayerError: the skeleton is malformed.
    :raises OSError: the skeleton cannot be read.
    """
    with open_skeleton(paths.skeleton, what=what) as reader:
        count = sum(len(ranges(entry)) for entry in reader if isinstance(entry, File))
    checksums = read_checksums(paths.checksums)
    if checksums is not None and len(checksums) != count:
        checksums = None
    yield from wrong_contents(_contents(paths, record, what), checksums)


def _contents(paths: LayerPaths, record: LayerRecord, what: str) -> Iterator[FileContents]:
    locations = FileLocations(record)
    with open_skeleton(paths.skeleton, what=what) as reader, _Files(paths, what) as files:
        for entry in reader:
            if not isinstance(entry, File):
                continue
            number, inside = location = locations.find(reader.count - 1, entry.path)
            path, checksums, fault = inside if number is None else entry.path, list[int](), None
            try:
                for _ in files.payload(entry, location, checksums.append):
                    pass
            except (IntegrityError, OSError) as error:
                fault = getattr(error, "strerror", None) or "unreadable"
            yield FileContents(path, len(ranges(entry)), fault or checksums)


def _elided(
    file: BinaryIO, what: str, keep: Callable[[bytes], object] | None = None
) -> SkeletonReader:
    chunks = decompressed(read_chunks(file), what=what)
    return SkeletonReader(chunks, what=what, limits=UNLIMITED, keep=keep, elided=True)


class FileLocations:
    """Finds a layer's files on disk, given symbolic links and replaced files."""

    def __init__(self, record: LayerRecord) -> None:
        self._moved = record.moved
        self._is_usual = not (record.moved or record.replacements)
        self._gone: dict[bytes, list[Replacement]] = {}
        for replacement in record.replacements:
            self._gone.setdefault(replacement.path, []).append(replacement)

    def find(self, number: int, path: bytes) -> tuple[int | None, bytes]:
        """Return the location of entry ``number``, which the tar calls ``path``.

        :returns: the number of the replaced file or directory, or ``None`` for the tree, and the
            path inside it.
        """
        if self._is_usual:
            return None, path
        path = self._moved.get(number, path)
        first, above = None, path if self._gone else b""
        while above:
            replacement = self._next(above, number)
            if replacement is not None and (first is None or replacement.entry < first.entry):
                first = replacement
            above = above.rpartition(b"/")[0]
        return (None, path) if first is None else (first.number, path[len(first.path) + 1 :])

    def _next(self, path: bytes, number: int) -> Replacement | None:
        """Return the first replacement of ``path`` after entry ``number``."""
        candidates = self._gone.get(path, [])
        at = bisect_right(candidates, number, key=lambda each: each.entry)
        return candidates[at] if at < len(candidates) else None


class _Files:
    """Reads the files of a layer; a descriptor of the tree shortens each path lookup."""

    def __init__(self, paths: LayerPaths, what: str, observer: Observer | None = None) -> None:
        self._paths = paths
        self._what = what
        self._compare = None if observer is None else observer.compare
        self._tree = -1

    def __enter__(self) -> Self:
        try:
            self._tree = os.open(self._paths.diff, _TREE)
        except OSError as error:
            raise self._differs(b"", error.strerror) from error
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._tree)

    def small(self, entry: File, location: tuple[int | None, bytes]) -> bytes | None:
        """Return the contents of a small plain file with few system calls.

        :returns: ``None`` for any other file, and after an error, which `payload` then raises.
        """
        number, inside = location
        if entry.segments is not None or number is not None:
            return None
        try:
            fd = os.open(inside, _OPEN, dir_fd=self._tree)
        except OSError:
            return None
        try:
            if self._compare is not None:
                self._compare(entry, fd)
            data = os.pread(fd, entry.size + 1, 0)
        except OSError:
            return None
        finally:
            os.close(fd)
        return data if len(data) == entry.size else None

    def payload(
        self,
        entry: File,
        location: tuple[int | None, bytes],
        checksum: Callable[[int], object] | None = None,
    ) -> Iterator[bytes]:
        """Yield the payload of a file in pieces.

        :param checksum: called with the CRC-32 of each range of data.
        :raises IntegrityError: the file is missing or has another length.
        :raises OSError: the disk cannot read it.
        """
        fd = self._opened(entry, location)
        try:
            if self._compare is not None:
                self._compare(entry, fd)
            for offset, length in ranges(entry):
                running = 0
                for data in self._range(fd, offset, length, entry):
                    if checksum is not None:
                        running = crc32(data, running)
                    yield data
                if checksum is not None:
                    checksum(running)
        finally:
            os.close(fd)

    def _opened(self, entry: File, location: tuple[int | None, bytes]) -> int:
        number, inside = location
        root = self._paths.diff if number is None else self._paths.replaced / str(number)
        try:
            fd = open_below(os.fsencode(root), inside)
        except PermissionError as error:
            raise StackerError(
                f"cannot read layer: {self._what}: {printable(entry.path)}: {error.strerror}",
                hint="run the command as root, or as the user who pulled the image",
            ) from error
        except OSError as error:
            raise self._differs(entry.path, error.strerror) from error
        size = os.fstat(fd).st_size
        if size != entry.size:
            os.close(fd)
            raise self._differs(entry.path, f"got {size} bytes, want {entry.size}")
        return fd

    def _range(self, fd: int, offset: int, length: int, entry: File) -> Iterator[bytes]:
        while length:
            try:
                data = os.pread(fd, min(length, _PIECE), offset)
            except OSError as error:
                raise OSError(error.errno, error.strerror, entry.path) from error
            if not data:
                raise self._differs(entry.path, f"got {offset} bytes, want {length} more")
            yield data
            offset, length = offset + len(data), length - len(data)

    def _differs(self, path: bytes, how: str | None) -> IntegrityError:
        return IntegrityError(
            f"layer differs from its skeleton: {self._what}: {printable(path) or '/'}: {how}"
        )
