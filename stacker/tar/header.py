"""Decode the fields of a 512-byte tar header.

A block comes in; a name, numbers and metadata go out.  Neighbours in a layer share most of their
fields, so each field is decoded once and cached by its bytes.  This module must not read the
stream.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple, TypeAlias
from zlib import adler32

from stacker.tar.entry import Meta

_REMEMBERED: Final = 1 << 16
# Name, mode with owner, size, time, checksum; the tail starts with the type flag.
_FIELDS: Final = Struct("100s24s12s12s8s").unpack_from
_BEFORE_SUM: Final = 148
_TAIL: Final = 156
_END: Final = 512
_BLANK_SUM: Final = 8 * 0x20


class Tail(NamedTuple):
    """A header from its type flag on; most entries of a layer have equal tails.

    :param link: the undecoded field with the target of a link.
    :param rest: the bytes from the magic number on, at offset 257 of the header.
    """

    flag: bytes
    link: bytes
    rest: bytes


Header: TypeAlias = tuple[bytes, int, Meta, Tail]
"""Name with prefix, size, metadata, tail.  A plain tuple, since there is one for each entry."""


def number(field: bytes) -> int:
    """Decode a numeric header field: octal text, or GNU's base-256 if the first bit is set.

    :raises ValueError: the field has neither form.
    """
    if field[0] & 0x80:
        bits = 8 * len(field) - 1
        value = int.from_bytes(field, "big") & ((1 << bits) - 1)
        value -= (1 << bits) if field[0] & 0x40 else 0
        if not -(1 << 63) <= value < 1 << 63:  # sizes and times that the kernel does not accept
            raise ValueError(_no_number(field))
        return value
    text = field.strip(b" \0").partition(b"\0")[0]
    if text and not text.isdigit():  # int() accepts signs, underscores and prefixes
        raise ValueError(_no_number(field))
    return int(text or b"0", 8)


def _no_number(field: bytes) -> str:
    return f"got {field!r}, want an octal or base-256 number"


class HeaderFields:
    """Decodes the headers of one stream."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._metas: dict[bytes, Meta] = {}
        self._tails: dict[bytes, tuple[Tail, bytes, int]] = {}
        self._tail_bytes = b""
        self._tail, self._prefix, self._tail_sum = Tail(b"", b"", b""), b"", 0

    def decoded(self, block: bytes, at: int) -> Header | None:
        """Decode the header at offset ``at``; return ``None`` if its checksum is wrong.

        :raises ValueError: the checksum is right, but a field is not a number.
        """
        name, owner, size, time, checksum = _FIELDS(block, at)
        tail = block[at + _TAIL : at + _END]
        if tail != self._tail_bytes:
            self._select_tail(tail)
        # The low half of adler32 is 1 + the sum of the bytes; 148 bytes cannot reach its modulus.
        total = (adler32(block[at : at + _BEFORE_SUM]) & 0xFFFF) + self._tail_sum
        known = self._numbers.get
        if known(checksum) != total and not self._is_sum(block[at : at + _END], total):
            return None
        meta, length = self._metas.get(owner + time), known(size)
        if meta is None or length is None:
            meta, length = self._meta(owner + time), self.number(size)
        return self._prefix + name.partition(b"\0")[0], length, meta, self._tail

    def number(self, field: bytes) -> int:
        """Decode a field as :func:`number` does, with a cache."""
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

    def _select_tail(self, tail: bytes) -> None:
        """Make ``tail`` the current tail, with its prefix and its part of the checksum."""
        known = self._tails.get(tail)
        if known is None:
            flag, link, rest = tail[:1], tail[1:101], tail[101:]
            # Each adler32 sum is 1 too large: two in this total, and one in the sum before it.
            total = flag[0] + adler32(link) % 0x10000 + adler32(rest) % 0x10000 + _BLANK_SUM - 3
            known = Tail(flag, link, rest), _prefix_in(rest), total
            if (
                not link[0] and len(self._tails) < _REMEMBERED
            ):  # links have different targets, so caching them gains nothing
                self._tails[tail] = known
        self._tail_bytes = tail
        self._tail, self._prefix, self._tail_sum = known

    def _is_sum(self, header: bytes, total: int) -> bool:
        """Compare the checksum field with the sum of the bytes.

        Old writers summed the bytes as signed numbers.
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
    """Return the name prefix with its slash (POSIX pax, *ustar Interchange Format*)."""
    if rest[:6] != b"ustar\0" or not rest[88]:
        return b""
    prefix = rest[88:243]
    if rest[251:] == b"tar\0":  # star stores times in the last 24 bytes of the prefix
        prefix = prefix[:131]
    return prefix.partition(b"\0")[0] + b"/"
