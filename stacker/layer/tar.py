"""Tar bytes in, typed entries out, payloads on request.

One parser reads layers, skeletons and archives, so that no two readers of a stream can differ
about where the next header stands.  It reads ustar, PAX, GNU, star and v7 headers (POSIX pax,
*ustar Interchange Format*; GNU tar manual, *Tar Internals*), and refuses what is not one: a
wrong checksum, a number that is none, a member cut short, bytes before the end marker that are
no header.  Knows no disk: where a payload goes is the caller's business.

Where readers differ this one sides with Go's archive/tar, which wrote and reads nearly every
layer there is: links, devices and directories carry no payload whatever their size field says.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NoReturn
from zlib import adler32

from stacker.errors import LayerError
from stacker.layer import pax, sparse
from stacker.layer.blocks import BLOCK, BlockReader
from stacker.layer.entry import (
    Directory,
    Entry,
    File,
    HardLink,
    Meta,
    Segment,
    Special,
    Symlink,
    normalised,
    shown,
    whiteout_of,
)
from stacker.layer.limits import Limits

_ZERO: Final = bytes(BLOCK)
_REMEMBERED: Final = 1 << 16
_BLANK_SUM: Final = 8 * 0x20
_FILE_FLAGS: Final = frozenset(b"0 \0 7 S".split(b" "))
_HEADER_ONLY: Final = frozenset(b"\0 1 2 3 4 5 6".split(b" "))
_OLD_SPARSE: Final = ord("S")
_SPECIAL: Final = {b"3": stat.S_IFCHR, b"4": stat.S_IFBLK, b"6": stat.S_IFIFO}
_LONG: Final = {b"L": b"path", b"K": b"linkpath"}
_EXTENDED: Final = frozenset(b"x g X L K".split(b" "))
_LAST_ID: Final = 0xFFFF_FFFE  # chown(2) reads 0xFFFFFFFF as "leave it"
_READ: Final = 256 * 1024


def number(field: bytes) -> int:
    """Decode a numeric header field: octal text, or GNU's base-256 when the first bit is set.

    :raises ValueError: it is neither.
    """
    if field[0] & 0x80:
        bits = 8 * len(field) - 1
        value = int.from_bytes(field, "big") & ((1 << bits) - 1)
        value -= (1 << bits) if field[0] & 0x40 else 0
        if not -(1 << 63) <= value < 1 << 63:  # no size and no time the kernel could take
            raise ValueError(field)
        return value
    text = field.strip(b" \0").partition(b"\0")[0]
    if text and not text.isdigit():  # int() would take signs, underscores and prefixes
        raise ValueError(field)
    return int(text or b"0", 8)


class _Numbers(dict[bytes, int]):
    """Decoded fields by their bytes: modes, owners and times repeat from entry to entry."""

    def __missing__(self, field: bytes) -> int:
        value = number(field)
        if len(self) < _REMEMBERED:
            self[field] = value
        return value


class TarReader(BlockReader):
    """Iterate over the entries of a tar stream.

    Between two entries, :meth:`write_payload` or :meth:`payload` gives the bytes of the one
    that came last; what is not asked for is skipped.

    :param chunks: the stream, in pieces of any size.
    :param what: how an error names the stream.
    :param keep: called with every byte that is not the payload of a :class:`File`, in order:
        what a skeleton is made of.
    :param elided: the stream *is* a skeleton: payloads of files are not in it.
    :raises LayerError: from the iteration, for anything malformed or over a limit.
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
        self._numbers = _Numbers()
        self._metas: dict[bytes, Meta] = {}
        self._globals: dict[bytes, bytes] = {}
        self._local: dict[bytes, bytes] = {}
        self._long: dict[bytes, bytes] = {}
        self._sparse: list[tuple[bytes, bytes]] = []

    def __iter__(self) -> Iterator[Entry]:
        while (header := self._header()) is not None:
            flag = header[156:157]
            if flag in _EXTENDED:
                self._extended(header, flag)
                continue
            self.count += 1
            if self.count > self.limits.entries:
                self._over("entries", self.limits.entries, "--max-entries")
            yield self._entry(header, flag)
            if self._left:
                self._skip(self._left)
                self._left = 0
            if self._padding:
                self._kept(self._padding)
                self._padding = 0
        if self._local or self._long:
            self._malformed("got an extended header and then the end, want the entry it is for")
        self._rest()

    def _header(self) -> bytes | None:
        if self._at == len(self._buffer) and self._at_end():
            return None  # no end marker: accepted by every reader there is
        header = self._kept(BLOCK)
        if header[0] == 0 and header == _ZERO:
            self._end_marker()
            return None
        # adler32's low half is 1 + the sum of the bytes mod 65521; 256 bytes cannot reach that.
        total = (
            (adler32(header[:256]) & 0xFFFF)
            + (adler32(header[256:]) & 0xFFFF)
            - 2
            - (adler32(header[148:156]) & 0xFFFF)
            + 1
            + _BLANK_SUM
        )
        if header[148:156] != b"%06o\0 " % total:
            self._slow_checksum(header, total)
        return header

    def _end_marker(self) -> None:
        if self._at_end():
            return
        second = self._kept(BLOCK)
        if second != _ZERO:
            raise LayerError(
                f"malformed tar: {self.what}: got a single zero block and then data at byte "
                f"{self.offset - BLOCK}, want two zero blocks"
            )

    def _slow_checksum(self, header: bytes, total: int) -> None:
        """Accept another spelling of the sum, and the sum over signed bytes of old writers."""
        try:
            want = number(header[148:156])
        except ValueError:
            want = -1
        high = sum(byte > 127 for byte in header[:148] + header[156:])
        if want not in (total, total - 256 * high):
            raise LayerError(
                f"malformed tar: {self.what}: got a header at byte {self.offset - BLOCK} with "
                f"checksum {header[148:156]!r}, want {total:o}"
            )

    def _field(self, field: bytes, name: str) -> int:
        try:
            return self._numbers[field]
        except ValueError as error:
            self._malformed(f"got {field!r} as {name}, want an octal or base-256 number", error)

    def _extended(self, header: bytes, flag: bytes) -> None:
        size = self._field(header[124:136], "size")
        if not 0 <= size <= self.limits.pax_bytes:
            self._over("bytes in an extended header", self.limits.pax_bytes, "--max-pax-bytes")
        block = self._kept(size)
        if size % BLOCK:
            self._kept(-size % BLOCK)
        if flag in _LONG:
            self._long[_LONG[flag]] = block.partition(b"\0")[0]
        else:
            self._read_records(block, flag)

    def _read_records(self, block: bytes, flag: bytes) -> None:
        if flag != b"g":
            self._local, self._sparse = {}, []  # of two headers in a row Go obeys the last
        target = self._globals if flag == b"g" else self._local
        for key, value in pax.records(block, self.what):
            if flag == b"g" and key not in pax.GLOBAL:
                continue
            if key.startswith(b"GNU.sparse."):
                self._sparse.append((key, value))
            target[key] = value

    def _entry(self, header: bytes, flag: bytes) -> Entry:
        name = header[:100].partition(b"\0")[0]
        if header[345] and header[257:263] == b"ustar\0":
            prefix = header[345:500]
            if header[508:] == b"tar\0":  # star keeps times in the prefix's last 24 bytes
                prefix = prefix[:131]
            name = prefix.partition(b"\0")[0] + b"/" + name
        extended, link = self._take_extended(), header[157:257]
        # Mode and owner, and the time: what many entries of a layer have in common.
        fields = header[100:124] + header[136:148]
        meta = self._metas.get(fields) or self._meta(fields, name)
        size = self._field(header[124:136], "size")
        if extended:
            name = extended.get(b"path") or name
            link = extended.get(b"linkpath") or link
            if given := extended.get(b"size"):
                size = pax.decimal(given, "size", self.what)
            meta = self._overridden(meta, extended)
        if meta.uid > _LAST_ID or meta.gid > _LAST_ID or meta.uid < 0 or meta.gid < 0:
            self._malformed(f"entry {shown(name)}: got owner {meta.uid}:{meta.gid}, want ids")
        name = name.partition(b"\0")[0]  # once more, for a name in a PAX record
        if flag in _FILE_FLAGS and (flag != b"\0" or name[-1:] != b"/"):
            return self._file(header, normalised(name), size, meta, extended)
        self._payload_ahead(0 if flag in _HEADER_ONLY else size)
        path, self._sparse = normalised(name), []
        return self._hidden(path) or self._other(header, path, meta, link.partition(b"\0")[0])

    def _meta(self, fields: bytes, name: bytes) -> Meta:
        """Decode mode, owner and time from their fields, and remember them."""
        number = self._numbers
        try:
            time = number[fields[24:]] * 1_000_000_000
            mode = number[fields[:8]] & 0o7777
            meta = Meta(mode, number[fields[8:16]], number[fields[16:24]], time, time, None)
        except ValueError as error:
            self._malformed(f"entry {shown(name)}: got {error}, want a number", error)
        if len(self._metas) < _REMEMBERED:
            self._metas[fields] = meta
        return meta

    def _take_extended(self) -> Mapping[bytes, bytes] | None:
        if self._local or self._long:
            extended = {**self._globals, **self._local, **self._long}
            self._local, self._long = {}, {}
            return extended
        return self._globals or None

    def _overridden(self, meta: Meta, extended: Mapping[bytes, bytes]) -> Meta:
        uid, gid = extended.get(b"uid"), extended.get(b"gid")
        mtime = pax.nanoseconds(extended.get(b"mtime", b""))
        atime = pax.nanoseconds(extended.get(b"atime", b""))
        modified = meta.mtime if mtime is None else mtime
        return Meta(
            meta.mode,
            pax.decimal(uid, "uid", self.what) if uid else meta.uid,
            pax.decimal(gid, "gid", self.what) if gid else meta.gid,
            modified,
            modified if atime is None else atime,
            pax.xattrs(extended, self.what),
        )

    def _file(
        self,
        header: bytes,
        path: bytes,
        size: int,
        meta: Meta,
        extended: Mapping[bytes, bytes] | None,
    ) -> Entry:
        stored, segments = size, None
        if self._sparse or header[156] == _OLD_SPARSE:
            path, size, stored, segments = self._sparse_file(header, path, size, extended)
        self._payload_ahead(stored)
        if (hidden := self._hidden(path)) is not None:
            return hidden
        if self._elided:
            self._left = 0
        return File(path, meta, size, stored, segments)

    def _other(self, header: bytes, path: bytes, meta: Meta, target: bytes) -> Entry:
        self._keep_payload()
        flag = header[156:157]
        if flag in (b"5", b"\0", b"D"):
            return Directory(path, meta)
        if flag == b"2":
            return Symlink(path, meta, target)
        if flag == b"1":
            return HardLink(path, normalised(target))
        if flag in _SPECIAL:
            return self._special(header, path, meta)
        raise LayerError(
            f"unknown entry type: {self.what}: {shown(path)}: got {flag!r}, want a file, "
            "directory, link, device or FIFO"
        )

    def _hidden(self, path: bytes) -> Entry | None:
        """Give what ``path`` is instead of what its header says, when it is a whiteout."""
        if path.count(b"/") >= self.limits.depth:
            self._over("components in a path", self.limits.depth, "--max-depth")
        if b".wh." not in path or (hidden := whiteout_of(path)) is None:
            return None
        self._keep_payload()
        return hidden

    def _payload_ahead(self, stored: int) -> None:
        if stored < 0:
            self._malformed(f"got a size of {stored}, want 0 or more")
        self._left = stored
        self._padding = -stored % BLOCK

    def _keep_payload(self) -> None:
        """Put a payload that has no place in a tree into the skeleton."""
        while self._left:
            length = min(self._left, _READ)
            self._left -= length
            self._kept(length)

    def _special(self, header: bytes, path: bytes, meta: Meta) -> Special:
        flag = header[156:157]
        if flag == b"6":
            return Special(path, meta, _SPECIAL[flag], 0)
        major, minor = self._field(header[329:337], "major"), self._field(header[337:345], "minor")
        # What dev_t holds in the kernel; mknod(2) would cut the rest off, and 0:0 means something.
        if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
            self._malformed(f"{shown(path)}: got device {major}:{minor}, want at most 4095:1048575")
        return Special(path, meta, _SPECIAL[flag], os.makedev(major, minor))

    def _sparse_file(
        self,
        header: bytes,
        path: bytes,
        size: int,
        extended: Mapping[bytes, bytes] | None,
    ) -> tuple[bytes, int, int, tuple[Segment, ...] | None]:
        """Give path, real size, stored bytes and segments; the map itself is consumed."""
        repeated, self._sparse = self._sparse, []
        values, what = extended or {}, f"{self.what}: {shown(path)}"
        stored = size
        segments: list[Segment] | None
        if header[156] == _OLD_SPARSE:
            segments, size = sparse.from_old_header(
                header, self._kept, lambda f: self._field(f, "sparse map"), self.limits, what
            )
        else:
            if given := values.get(b"GNU.sparse.name"):
                path = normalised(given.partition(b"\0")[0])
            real = values.get(b"GNU.sparse.realsize") or values.get(b"GNU.sparse.size")
            if sparse.is_version_1(values):
                segments, used = sparse.from_payload(self._kept, size, self.limits, what)
                stored -= used
            else:
                segments = sparse.from_records(
                    repeated, lambda v: pax.decimal(v, "sparse map", what)
                )
            if real is None or segments is None:
                if stored != size:
                    self._malformed(f"{shown(path)}: got a sparse map, want a size with it")
                return path, size, size, None
            size = pax.decimal(real, "sparse size", what)
        return path, size, stored, sparse.checked(segments, size=size, stored=stored, what=what)

    def _malformed(self, got: str, cause: Exception | None = None) -> NoReturn:
        raise LayerError(
            f"malformed tar: {self.what}: header before byte {self.offset}: {got}"
        ) from cause

    def _over(self, what: str, limit: int, flag: str) -> NoReturn:
        raise LayerError(
            f"over a limit: {self.what}: got more than {limit} {what}",
            hint=f"raise the limit with {flag} if you trust the image",
        )
