"""The fields of a tar header, from 512 bytes to numbers.

In: a block.  Out: its prefix, size and metadata; ``ValueError`` for what is no number, ``None``
where the checksum says that it is no header.  Neighbours in a layer have nearly all of their
fields in common, so a field is decoded once and remembered by its bytes.  Knows no stream.
"""

from __future__ import annotations

from typing import Final
from zlib import adler32

from stacker.layer.entry import Meta

_REMEMBERED: Final = 1 << 16
_BLANK_SUM: Final = 8 * 0x20


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


class HeaderFields:
    """Decode the headers of one stream."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._metas: dict[bytes, Meta] = {}
        self._tails: dict[bytes, tuple[int, bytes]] = {}
        self._sums: dict[bytes, int] = {}

    def prefix(self, header: bytes) -> bytes | None:
        """Give what comes before the name, with its slash; ``None`` if the checksum is wrong."""
        tail = header[256:]
        total, prefix = self._tails.get(tail) or self._tail(tail)
        total += (adler32(header[:256]) & 0xFFFF) - 1
        if self._sums.get(header[148:156]) == total or self._is_sum(header, total):
            return prefix
        return None

    def number(self, field: bytes) -> int:
        """Decode a field, as :func:`number` does."""
        value = self._numbers.get(field)
        if value is None:
            value = number(field)
            if len(self._numbers) < _REMEMBERED:
                self._numbers[field] = value
        return value

    def meta(self, header: bytes) -> Meta:
        """Decode mode, owner and time."""
        fields = header[100:124] + header[136:148]
        return self._metas.get(fields) or self._meta(fields)

    def _meta(self, fields: bytes) -> Meta:
        number = self.number
        time = number(fields[24:]) * 1_000_000_000
        mode = number(fields[:8]) & 0o7777
        meta = Meta(mode, number(fields[8:16]), number(fields[16:24]), time, time, None)
        if len(self._metas) < _REMEMBERED:
            self._metas[fields] = meta
        return meta

    def _tail(self, tail: bytes) -> tuple[int, bytes]:
        """Sum up and read the second half of a header: magic, names of the owner, prefix."""
        prefix = b""
        if tail[1:7] == b"ustar\0" and tail[89]:
            prefix = tail[89:244]
            if tail[252:] == b"tar\0":  # star keeps times in the prefix's last 24 bytes
                prefix = prefix[:131]
            prefix = prefix.partition(b"\0")[0] + b"/"
        # adler32's low half is 1 + the sum of the bytes mod 65521; 256 bytes cannot reach that.
        known = (adler32(tail) & 0xFFFF) - 1, prefix
        if len(self._tails) < _REMEMBERED:
            self._tails[tail] = known
        return known

    def _is_sum(self, header: bytes, total: int) -> bool:
        """Compare the checksum, which is taken as if its own field were blank, with the bytes.

        However it is spelt; and old writers took bytes as signed numbers.
        """
        field = header[148:156]
        try:
            want = number(field)
        except ValueError:
            return False
        blanked = total - sum(field) + _BLANK_SUM
        if want == blanked:
            if len(self._sums) < _REMEMBERED:
                self._sums[field] = total
            return True
        high = sum(byte > 127 for byte in header[:148] + header[156:])
        return want == blanked - 256 * high
