"""Parse a tar stream into typed entries; write payloads on request.

Chunks of bytes come in; entries go out, and payloads to a descriptor of the caller.  The reader
accepts ustar, PAX, GNU, star and v7 headers (POSIX pax, *ustar Interchange Format*; GNU tar
manual, *Tar Internals*).  It must not create files: the caller decides where a payload goes.

A wrong checksum, a malformed number, a truncated member, and data in place of a header are errors.
Where readers differ, this one follows Go's archive/tar, which writes and reads most layers: links,
devices and directories have no payload, whatever their size field says.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NoReturn

from stacker.errors import LayerError
from stacker.tar import pax, sparse
from stacker.tar.blocks import BLOCK, BlockReader
from stacker.tar.entry import (
    Directory,
    Entry,
    File,
    HardLink,
    Meta,
    Segment,
    Special,
    Symlink,
    normalised,
    parse_whiteout,
    printable,
)
from stacker.tar.header import Header, HeaderFields, Tail
from stacker.tar.limits import Limits

_ZERO: Final = bytes(BLOCK)
_FILE_FLAGS: Final = frozenset(b"0 \0 7 S".split(b" "))
_HEADER_ONLY: Final = frozenset(b"\0 1 2 3 4 5 6".split(b" "))
_OLD_SPARSE: Final = b"S"
_SPECIAL: Final = {b"3": stat.S_IFCHR, b"4": stat.S_IFBLK, b"6": stat.S_IFIFO}
_LONG: Final = {b"L": b"path", b"K": b"linkpath"}
_EXTENDED: Final = frozenset(b"x g X L K".split(b" "))
_LAST_ID: Final = 0xFFFF_FFFE  # chown(2) does not change an ID of 0xFFFFFFFF
_READ: Final = 256 * 1024
_ODD: Final = frozenset((b"", b"."))
"""The first bytes of components that may be ``..``, or a whiteout."""


class TarReader(BlockReader):
    """Iterates over the entries of a tar stream.

    Between two entries, :meth:`write_payload` and :meth:`payload` return the bytes of the last
    entry; the iterator skips the rest.

    :param chunks: the stream, in pieces of any size.
    :param what: the name of the stream in errors.
    :param keep: called with every byte except the payloads of :class:`File`, in order, to write a
        skeleton.
    :param elided: the stream is a skeleton, without the payloads of files.
    :raises LayerError: while iterating, for a malformed stream or an exceeded limit.
    """

    def __init__(
        self,
        chunks: Iterator[bytes],
        *,
        what: str,
        limits: Limits | None = None,
        keep: Callable[[bytes], object] | None = None,
        elided: bool = False,
    ) -> None:
        super().__init__(chunks, what=what, keep=keep)
        self.limits = limits or Limits()
        self.count = 0
        self._elided = elided
        self._padding = 0
        self._fields = HeaderFields()
        self._meta: Meta | None = None
        self._plain: Tail | None = None
        self._above = self._directory = b"\0"
        self._globals: dict[bytes, bytes] = {}
        self._local: dict[bytes, bytes] = {}
        self._long: dict[bytes, bytes] = {}
        self._sparse: list[tuple[bytes, bytes]] = []
        self._is_extended = False

    def __iter__(self) -> Iterator[Entry]:
        most = self.limits.entries
        while (header := self._header()) is not None:
            name, size, meta, tail = header
            if tail.flag in _EXTENDED:
                self._extended(tail.flag, size)
                continue
            self.count += 1
            if self.count > most:
                self._over("entries", most, "--max-entries")
            if tail is self._plain and not self._is_extended and meta is self._meta:
                yield self._file(name, size, size, meta, None)
            else:
                yield self._entry(name, size, meta, tail)
            if self._left:
                self._skip(self._left)
                self._left = 0
        if self._local or self._long:
            self._malformed("got an extended header and then the end, want an entry after it")
        self._read_rest()

    def _header(self) -> Header | None:
        """Take the next header; the bytes kept start with the padding before it."""
        start = self._at
        at = start + self._padding
        block, self._at = self._buffer, at + BLOCK
        if self._at <= len(block):
            if self._keep is not None:
                self._keep(block[start : self._at])
        else:
            self._at = start
            if self._is_at_end():
                return None  # every known reader accepts a missing end marker
            block, at = self._take(BLOCK), 0
        self._padding = 0
        try:
            header = self._fields.decoded(block, at)
        except ValueError as error:
            self._malformed(str(error), error)
        if header is None:
            self._no_header(block[at : at + BLOCK])
        return header

    def _is_at_end(self) -> bool:
        """Return whether the stream ends after a payload; its padding may be missing."""
        padding, self._padding = self._padding, 0
        if padding:
            self._take(padding)
        return self._at_end()

    def _no_header(self, block: bytes) -> None:
        """Require an end marker in place of a header."""
        if block != _ZERO:
            raise LayerError(
                f"malformed tar: {self.what}: got a header at byte {self.offset - BLOCK} with "
                f"checksum {block[148:156]!r}, want the sum of its bytes"
            )
        self._end_marker()

    def _end_marker(self) -> None:
        if self._at_end():
            return
        second = self._take(BLOCK)
        if second != _ZERO:
            raise LayerError(
                f"malformed tar: {self.what}: got a single zero block and then data at byte "
                f"{self.offset - BLOCK}, want two zero blocks"
            )

    def _number(self, field: bytes) -> int:
        try:
            return self._fields.number(field)
        except ValueError as error:
            self._malformed(str(error), error)

    def _extended(self, flag: bytes, size: int) -> None:
        if not 0 <= size <= self.limits.pax_bytes:
            self._over("bytes in an extended header", self.limits.pax_bytes, "--max-pax-bytes")
        block = self._take(size)
        if size % BLOCK:
            self._take(-size % BLOCK)
        if flag in _LONG:
            self._long[_LONG[flag]] = block.partition(b"\0")[0]
        else:
            self._read_records(block, flag)
        self._is_extended = bool(self._local or self._long or self._globals)

    def _read_records(self, block: bytes, flag: bytes) -> None:
        if flag != b"g":
            self._local, self._sparse = {}, []  # Go uses the last of two headers
        elif self._local or self._long:  # readers differ about whether these still apply
            self._malformed("got a global header after an extended one, want an entry")
        target = self._globals if flag == b"g" else self._local
        for key, value in pax.records(block, self.what):
            if flag == b"g" and key not in pax.GLOBAL:
                continue
            if key.startswith(b"GNU.sparse."):
                self._sparse.append((key, value))
            target[key] = value

    def _entry(self, name: bytes, size: int, meta: Meta, tail: Tail) -> Entry:
        flag, extended = tail.flag, None
        if self._is_extended:
            extended = self._take_extended()
            name, size, meta = self._overridden(name, size, meta, extended)
        if meta is not self._meta:
            self._check_owner(name, meta)
        if flag in _FILE_FLAGS and (flag != b"\0" or name[-1:] != b"/"):
            if self._sparse or flag == _OLD_SPARSE:
                return self._file(*self._sparse_file(tail, name, size, meta, extended))
            self._plain = tail if flag == b"0" else self._plain
            return self._file(name, size, size, meta, None)
        self._payload_ahead(0 if flag in _HEADER_ONLY else size)
        path, self._sparse = normalised(name), []
        return self._hidden(path) or self._other(tail, path, meta, extended)

    def _check_owner(self, name: bytes, meta: Meta) -> None:
        if not (0 <= meta.uid <= _LAST_ID and 0 <= meta.gid <= _LAST_ID):
            self._malformed(
                f"entry {printable(name)}: got owner {meta.uid}:{meta.gid}, want valid IDs"
            )
        self._meta = meta

    def _take_extended(self) -> Mapping[bytes, bytes]:
        extended = {**self._globals, **self._local, **self._long}
        self._local, self._long = {}, {}
        self._is_extended = bool(self._globals)
        return extended

    def _overridden(
        self, name: bytes, size: int, meta: Meta, extended: Mapping[bytes, bytes]
    ) -> tuple[bytes, int, Meta]:
        """Apply extended headers over the fields of the header."""
        given, uid, gid = extended.get(b"size"), extended.get(b"uid"), extended.get(b"gid")
        mtime = pax.nanoseconds(extended.get(b"mtime", b""))
        atime = pax.nanoseconds(extended.get(b"atime", b""))
        modified = meta.mtime if mtime is None else mtime
        meta = Meta(
            meta.mode,
            pax.decimal(uid, "uid", self.what) if uid else meta.uid,
            pax.decimal(gid, "gid", self.what) if gid else meta.gid,
            modified,
            modified if atime is None else atime,
            pax.xattrs(extended, self.what),
        )
        name = (extended.get(b"path") or name).partition(b"\0")[0]
        return name, pax.decimal(given, "size", self.what) if given else size, meta

    def _file(
        self,
        name: bytes,
        size: int,
        stored: int,
        meta: Meta,
        segments: tuple[Segment, ...] | None,
    ) -> Entry:
        if stored < 0:
            self._malformed(f"got a size of {stored}, want 0 or more")
        self._left, self._padding = stored, -stored % BLOCK
        above, _, base = name.rpartition(b"/")
        if above == self._above and base[:1] not in _ODD:
            path = self._directory + base  # this directory's path was checked for an earlier file
        else:
            path = normalised(name)
            if (hidden := self._hidden(path)) is not None:
                return hidden
            if base[:1] not in _ODD:
                self._above, self._directory = above, path[: len(path) - len(base)]
        if self._elided:
            self._left = 0
        # Calling File() costs one more Python call, and most entries are files.
        return tuple.__new__(File, (path, meta, size, stored, segments))

    def _other(
        self, tail: Tail, path: bytes, meta: Meta, extended: Mapping[bytes, bytes] | None
    ) -> Entry:
        self._keep_payload()
        target = ((extended or {}).get(b"linkpath") or tail.link).partition(b"\0")[0]
        flag = tail.flag
        if flag in (b"5", b"\0", b"D"):
            return Directory(path, meta)
        if flag == b"2":
            return Symlink(path, meta, target)
        if flag == b"1":
            return HardLink(path, normalised(target))
        if flag in _SPECIAL:
            return self._special(tail, path, meta)
        raise LayerError(
            f"unknown entry type: {self.what}: {printable(path)}: got {flag!r}, want a file, "
            "directory, link, device or FIFO"
        )

    def _hidden(self, path: bytes) -> Entry | None:
        """Return the whiteout or AUFS file that ``path`` names, whatever the type in its header."""
        if path.count(b"/") >= self.limits.depth:
            self._over("components in a path", self.limits.depth, "--max-depth")
        if b".wh." not in path or (hidden := parse_whiteout(path)) is None:
            return None
        self._keep_payload()
        return hidden

    def _payload_ahead(self, stored: int) -> None:
        if stored < 0:
            self._malformed(f"got a size of {stored}, want 0 or more")
        self._left, self._padding = stored, -stored % BLOCK

    def _keep_payload(self) -> None:
        """Write a payload that is not part of a file in the tree to the skeleton."""
        while self._left:
            length = min(self._left, _READ)
            self._left -= length
            self._take(length)

    def _special(self, tail: Tail, path: bytes, meta: Meta) -> Special:
        if tail.flag == b"6":
            return Special(path, meta, _SPECIAL[tail.flag], 0)
        device = tail.rest[72:88]
        major, minor = self._number(device[:8]), self._number(device[8:])
        # The kernel's dev_t has 12 and 20 bits.  mknod(2) would truncate, and 0:0 is a whiteout.
        if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
            self._malformed(
                f"{printable(path)}: got device {major}:{minor}, want at most 4095:1048575"
            )
        return Special(path, meta, _SPECIAL[tail.flag], os.makedev(major, minor))

    def _sparse_file(
        self,
        tail: Tail,
        path: bytes,
        size: int,
        meta: Meta,
        extended: Mapping[bytes, bytes] | None,
    ) -> tuple[bytes, int, int, Meta, tuple[Segment, ...] | None]:
        """Return the arguments of :meth:`_file`, after reading the sparse map."""
        repeated, self._sparse = self._sparse, []
        values, what = extended or {}, f"{self.what}: {printable(path)}"
        stored, version = size, sparse.version(values)
        if tail.flag == _OLD_SPARSE:
            segments, size = sparse.from_old_header(
                tail.rest, self._take, self._number, self.limits, what
            )
        elif version is None:
            return path, size, size, meta, None
        else:
            if given := values.get(b"GNU.sparse.name"):
                path = given.partition(b"\0")[0]
            real = values.get(b"GNU.sparse.size") or values.get(b"GNU.sparse.realsize")
            if version == 1:
                segments, used = sparse.from_payload(self._take, size, self.limits, what)
                stored -= used
            else:
                segments = sparse.from_records(
                    repeated, lambda v: pax.decimal(v, "sparse map", what)
                )
            if not real:
                self._malformed(f"{printable(path)}: got a sparse map, want a size with it")
            size = pax.decimal(real, "sparse size", what)
        whole = sparse.checked(segments, size=size, stored=stored, what=what)
        return path, size, stored, meta, whole

    def _malformed(self, got: str, cause: Exception | None = None) -> NoReturn:
        raise LayerError(
            f"malformed tar: {self.what}: header before byte {self.offset}: {got}"
        ) from cause

    def _over(self, what: str, limit: int, flag: str) -> NoReturn:
        raise LayerError(
            f"over a limit: {self.what}: got more than {limit} {what}, want fewer",
            hint=f"raise the limit with {flag} if you trust the image",
        )
