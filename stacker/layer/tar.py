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
from stacker.layer.header import HeaderFields
from stacker.layer.limits import Limits

_ZERO: Final = bytes(BLOCK)
_FILE_FLAGS: Final = frozenset(b"0 \0 7 S".split(b" "))
_HEADER_ONLY: Final = frozenset(b"\0 1 2 3 4 5 6".split(b" "))
_OLD_SPARSE: Final = ord("S")
_SPECIAL: Final = {b"3": stat.S_IFCHR, b"4": stat.S_IFBLK, b"6": stat.S_IFIFO}
_LONG: Final = {b"L": b"path", b"K": b"linkpath"}
_EXTENDED: Final = frozenset(b"x g X L K".split(b" "))
_LAST_ID: Final = 0xFFFF_FFFE  # chown(2) reads 0xFFFFFFFF as "leave it"
_READ: Final = 256 * 1024
_REMEMBERED: Final = 1 << 16
_SHORT: Final = 512  # longer names would take more memory than they spare time
_ODD: Final = frozenset((b"", b"."))
"""How a component begins that may be none (``..``) or a whiteout."""


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
        self._fields = HeaderFields()
        self._prefix = b""
        self._directories: dict[bytes, bytes] = {}
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
        if self._local or self._long:
            self._malformed("got an extended header and then the end, want the entry it is for")
        self._rest()

    def _header(self) -> bytes | None:
        padding, self._padding = self._padding, 0
        if self._at + padding + BLOCK > len(self._buffer):
            if padding:
                self._kept(padding)
                padding = 0
            if self._at_end():
                return None  # no end marker: accepted by every reader there is
        header = self._kept(padding + BLOCK)[padding:]
        if header[0] == 0 and header == _ZERO:
            self._end_marker()
            return None
        prefix = self._fields.prefix(header)
        if prefix is None:
            raise LayerError(
                f"malformed tar: {self.what}: got a header at byte {self.offset - BLOCK} with "
                f"checksum {header[148:156]!r}, want the sum of its bytes"
            )
        self._prefix = prefix
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

    def _field(self, field: bytes, name: str) -> int:
        try:
            return self._fields.number(field)
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
        elif self._local or self._long:  # for some readers these are lost now, for others not
            self._malformed("got a global header after an extended one, want the entry it is for")
        target = self._globals if flag == b"g" else self._local
        for key, value in pax.records(block, self.what):
            if flag == b"g" and key not in pax.GLOBAL:
                continue
            if key.startswith(b"GNU.sparse."):
                self._sparse.append((key, value))
            target[key] = value

    def _entry(self, header: bytes, flag: bytes) -> Entry:
        name = header[:100].partition(b"\0")[0]
        if self._prefix:
            name = self._prefix + name
        size = self._field(header[124:136], "size")
        try:
            meta = self._fields.meta(header)
        except ValueError as error:
            self._malformed(f"entry {shown(name)}: got {error}, want a number", error)
        extended = None
        if self._local or self._long or self._globals:
            extended = self._take_extended()
            name, size, meta = self._overridden(name, size, meta, extended)
        if not (0 <= meta.uid <= _LAST_ID and 0 <= meta.gid <= _LAST_ID):
            self._malformed(f"entry {shown(name)}: got owner {meta.uid}:{meta.gid}, want ids")
        if flag in _FILE_FLAGS and (flag != b"\0" or name[-1:] != b"/"):
            return self._file(header, name, size, meta, extended)
        self._payload_ahead(0 if flag in _HEADER_ONLY else size)
        path, self._sparse = normalised(name), []
        return self._hidden(path) or self._other(header, path, meta, extended)

    def _take_extended(self) -> Mapping[bytes, bytes]:
        extended = {**self._globals, **self._local, **self._long}
        self._local, self._long = {}, {}
        return extended

    def _overridden(
        self, name: bytes, size: int, meta: Meta, extended: Mapping[bytes, bytes]
    ) -> tuple[bytes, int, Meta]:
        """Let extended headers overrule the header."""
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
        header: bytes,
        name: bytes,
        size: int,
        meta: Meta,
        extended: Mapping[bytes, bytes] | None,
    ) -> Entry:
        stored, segments = size, None
        if self._sparse or header[156] == _OLD_SPARSE:
            name, size, stored, segments = self._sparse_file(header, name, size, extended)
        self._payload_ahead(stored)
        above, _, base = name.rpartition(b"/")
        directory = self._directories.get(above)
        if directory is None or base[:1] in _ODD:
            path = normalised(name)
            if (hidden := self._hidden(path)) is not None:
                return hidden
            self._remember(above, base, path)
        else:  # what could be wrong with the path was looked for when the directory was met
            path = directory + base
        if self._elided:
            self._left = 0
        # What File() does, without a call in between: most entries come by here.
        return tuple.__new__(File, (path, meta, size, stored, segments))

    def _remember(self, above: bytes, base: bytes, path: bytes) -> None:
        """Remember what ``above``, the name of a file's directory, comes to as a path."""
        if base[:1] in _ODD or len(above) > _SHORT:
            return
        if len(self._directories) < _REMEMBERED:
            self._directories[above] = path[: len(path) - len(base)]

    def _other(
        self, header: bytes, path: bytes, meta: Meta, extended: Mapping[bytes, bytes] | None
    ) -> Entry:
        self._keep_payload()
        target = ((extended or {}).get(b"linkpath") or header[157:257]).partition(b"\0")[0]
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
        stored, version = size, sparse.version(values)
        if header[156] == _OLD_SPARSE:
            segments, size = sparse.from_old_header(
                header, self._kept, lambda f: self._field(f, "sparse map"), self.limits, what
            )
        elif version is None:
            return path, size, size, None
        else:
            if given := values.get(b"GNU.sparse.name"):
                path = given.partition(b"\0")[0]
            real = values.get(b"GNU.sparse.size") or values.get(b"GNU.sparse.realsize")
            if version == 1:
                segments, used = sparse.from_payload(self._kept, size, self.limits, what)
                stored -= used
            else:
                segments = sparse.from_records(
                    repeated, lambda v: pax.decimal(v, "sparse map", what)
                )
            if not real:
                self._malformed(f"{shown(path)}: got a sparse map, want a size with it")
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
