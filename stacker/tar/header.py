"""The fields of a tar header, from 512 bytes to a name, numbers and metadata.

In: a block.  Out: a :class:`Header`; ``ValueError`` for what is no number, ``None`` where the
checksum says that it is no header.  Neighbours in a layer have nearly all of their fields in
common, so a field is decoded once and remembered by its bytes.  Knows no stream.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple, TypeAlias
from zlib import adler32

from stacker.tar.entry import Meta

_REMEMBERED: Final = 1 << 16
# name, mode with owner, size, time, checksum; the tail begins with the flag.
_FIELDS: Final = Struct("100s24s12s12s8s").unpack_from
_BEFORE_SUM: Final = 148
_TAIL: Final = 156
_END: Final = 512
_BLANK_SUM: Final = 8 * 0x20


class Tail(NamedTuple):
    """What a header says from its flag on; most of a layer's entries have it in common.

    :param link: the field that holds a link's target, as it stands there.
    :param rest: what begins with the magic number, 257 bytes from the header's start.
    """

    flag: bytes
    link: bytes
    rest: bytes


Header: TypeAlias = tuple[bytes, int, Meta, Tail]
"""Name with prefix, size, metadata, tail: plain, since there is one for every entry."""


def number(field: bytes) -> int:
    """Decode a numeric header field: octal text, or GNU's base-256 when the first bit is set.

    :raises ValueError: it is neither.
    """
    if field[0] & 0x80:
        bits = 8 * len(field) - 1
        value = int.from_bytes(field, "big") & ((1 << bits) - 1)
        value -= (1 << bits) if field[0] & 0x40 else 0
        if not -(1 << 63) <= value < 1 << 63:  # no size and no time the kernel could take
            raise ValueError(_no_number(field))
        return value
    text = field.strip(b" \0").partition(b"\0")[0]
    if text and not text.isdigit():  # int() would take signs, underscores and prefixes
        raise ValueError(_no_number(field))
    return int(text or b"0", 8)


def _no_number(field: bytes) -> str:
    return f"got {field!r}, want an octal or base-256 number"


class HeaderFields:
    """Decode the headers of one stream."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._metas: dict[bytes, Meta] = {}
        self._tails: dict[bytes, tuple[Tail, bytes, int]] = {}
        self._tail_bytes = b""
        self._tail, self._prefix, self._tail_sum = Tail(b"", b"", b""), b"", 0

    def decoded(self, block: bytes, at: int) -> Header | None:
        """Decode the header at ``at``; ``None`` if its checksum is wrong.

        :raises ValueError: the checksum is right, and a number is none.
        """
        name, owner, size, time, checksum = _FIELDS(block, at)
        tail = block[at + _TAIL : at + _END]
        if tail != self._tail_bytes:
            self._turn_to(tail)
        # adler32's low half is 1 + the sum of the bytes mod 65521, which 148 cannot reach.
        total = (adler32(block[at : at + _BEFORE_SUM]) & 0xFFFF) + self._tail_sum
        known = self._numbers.get
        if known(checksum) != total and not self._is_sum(block[at : at + _END], total):
            return None
        meta, length = self._metas.get(owner + time), known(size)
        if meta is None or length is None:
            meta, length = self._meta(owner + time), self.number(size)
        return self._prefix + name.partition(b"\0")[0], length, meta, self._tail

    def number(self, field: bytes) -> int:
        """Decode a field, as :func:`number` does."""
        value = self._numbers.get(field)
        if value is None:
            value = number(field)
            if len(self._numbers) < _REMEMBERED:
                self._numbers[field] = value
        return value

    def _meta(self, fields: bytes) -> Meta:
        """Decode mode, owner and time."""
        number = self.number
        time = number(fields[24:]) * 1_000_000_000
        mode = number(fields[:8]) & 0o7777
        meta = Meta(mode, number(fields[8:16]), number(fields[16:24]), time, time, None)
        if len(self._metas) < _REMEMBERED:
            self._metas[fields] = meta
        return meta

    def _turn_to(self, tail: bytes) -> None:
        """Have ready what a tail says, and what it adds to the sum."""
        known = self._tails.get(tail)
        if known is None:
            flag, link, rest = tail[:1], tail[1:101], tail[101:]
            # The sums of this and of what comes before it are each 1 too large.
            total = flag[0] + adler32(link) % 0x10000 + adler32(rest) % 0x10000 + _BLANK_SUM - 3
            known = Tail(flag, link, rest), _prefix_in(rest), total
            if not link[0] and len(self._tails) < _REMEMBERED:  # no two links are alike
                self._tails[tail] = known
        self._tail_bytes = tail
        self._tail, self._prefix, self._tail_sum = known

    def _is_sum(self, header: bytes, total: int) -> bool:
        """Compare the checksum, however it is spelt, with what the bytes add up to.

        Old writers took bytes as signed numbers.
        """
        try:
            want = self.number(header[148:156])
        except ValueError:
            return False
        if want == total:
            return True
        high = sum(byte > 127 for byte in header[:148] + header[156:])
        return want == total - 256 * high


def _prefix_in(rest: bytes) -> bytes:
    """Give what comes before the name, with its slash (POSIX pax, *ustar Interchange Format*)."""
    if rest[:6] != b"ustar\0" or not rest[88]:
        return b""
    prefix = rest[88:243]
    if rest[251:] == b"tar\0":  # star keeps times in the prefix's last 24 bytes
        prefix = prefix[:131]
    return prefix.partition(b"\0")[0] + b"/"
