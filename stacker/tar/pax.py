"""Parse the records of a PAX extended header (POSIX pax, *pax Header Block*).

The payload of the header comes in.  Records go out, and the values in them: decimal numbers,
times in nanoseconds, extended attributes.  This module must not build entries.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from urllib.parse import unquote_to_bytes

from stacker.errors import LayerError

SCHILY = b"SCHILY.xattr."
LIBARCHIVE = b"LIBARCHIVE.xattr."

_TIME = 64
_DIGITS = 18  # fits the signed 64-bit numbers of the kernel

GLOBAL = frozenset({b"uid", b"gid", b"mtime", b"atime"})
"""The keywords of a global header that apply to every later file.

POSIX applies all of them, Go's archive/tar and libarchive apply none.  A global ``size`` would
make readers disagree about the position of the next header.  Global extended attributes are
ignored too: one megabyte in one header would become a megabyte for every file.
"""


def records(block: bytes, what: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield the (keyword, value) records of ``block``, in order and with repeats.

    :raises LayerError: a record has a wrong length, or lacks its blank, equals sign or newline.
    """
    at, end = 0, len(block)
    while at < end:
        blank = block.find(b" ", at, at + 20)
        digits = block[at:blank] if blank > at else b""
        if not digits.isdigit():
            if block[at:].strip(b"\0") == b"":
                return  # some writers count the padding as part of the header
            raise _malformed(what, block[at : at + 20], "a decimal length and a blank")
        stop = at + int(digits)
        key, equals, value = block[blank + 1 : stop - 1].partition(b"=")
        if stop > end or stop <= blank + 1 or block[stop - 1] != 0x0A or not equals or not key:
            raise _malformed(what, block[at : at + 40], "`LENGTH KEY=VALUE\\n`")
        yield key, value
        at = stop


def _malformed(what: str, got: bytes, want: str) -> LayerError:
    return LayerError(f"malformed PAX record: {what}: got {got!r}, want {want}")


def decimal(value: bytes, key: str, what: str) -> int:
    """Parse a decimal number that determines a position.

    :raises LayerError: the value is not one, so readers could disagree about the position.
    """
    if not value.isdigit() or len(value.lstrip(b"0")) > _DIGITS:
        raise LayerError(f"malformed PAX {key}: {what}: got {value[:40]!r}, want a decimal number")
    return int(value)


def nanoseconds(value: bytes) -> int | None:
    """Parse a time; return ``None`` for a malformed one: other readers then use the header's."""
    if len(value) > _TIME:
        return None
    sign, text = (-1, value[1:]) if value[:1] == b"-" else (1, value)
    whole, dot, fraction = text.partition(b".")
    if not whole.isdigit() or len(whole) > _DIGITS or (dot and fraction and not fraction.isdigit()):
        return None
    return sign * (int(whole) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0") or b"0"))


def xattrs(values: Mapping[bytes, bytes], what: str) -> dict[bytes, bytes] | None:
    """Return the extended attributes; star's binary form takes precedence over libarchive's base64.

    :raises LayerError: a name lacks its namespace, or a value is not base64.
    """
    found: dict[bytes, bytes] = {}
    for key, value in values.items():
        if key.startswith(LIBARCHIVE):
            found.setdefault(
                unquote_to_bytes(key[len(LIBARCHIVE) :]), _base64_decoded(value, key, what)
            )
        elif key.startswith(SCHILY):
            found[key[len(SCHILY) :]] = value
    for name in found:
        if not name or b"\0" in name or b"." not in name:
            raise LayerError(f"malformed xattr name: {what}: got {name!r}, want NAMESPACE.NAME")
    return found or None


def _base64_decoded(value: bytes, key: bytes, what: str) -> bytes:
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error as error:
        raise LayerError(
            f"malformed PAX value: {what}: {key!r}: got {value[:40]!r}, want base64"
        ) from error
