"""Words for a terminal, and words from a person: text that is safe to show, sizes, counts.

In come strings and numbers, out go others.  What an image's author wrote must not reach the
terminal as anything but visible characters: no escape sequences, no changes of direction.
"""

from __future__ import annotations

import re

_UNITS = "KMGTP"
_SIZE = re.compile(r"(\d+)([KMGT]?)(?:i?B)?", re.IGNORECASE | re.ASCII)


def printable(text: str) -> str:
    r"""Return text with everything invisible written as an escape.

    >>> printable("caf\u00e9 \x1b[31m")
    'café \\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def shortened(text: str, limit: int) -> str:
    """Return text on one line of at most `limit` characters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def size(count: int) -> str:
    """Return a number of bytes as a person reads it.

    >>> size(1536)
    '1.5 KiB'
    """
    if count < 1024:
        return f"{count} B"
    value = float(count)
    unit = ""
    for unit in _UNITS:  # noqa: B007 - it is used after the loop
        value /= 1024
        if round(value, 1) < 1024:
            break
    return f"{value:.1f} {unit}iB"


def parse_size(text: str) -> int:
    """Return the bytes that ``512``, ``64K``, ``10M``, ``2G`` or ``1T`` means; K is 1024.

    :raises ValueError: it is nothing of the kind.
    """
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f"got {text!r}, want a number of bytes such as 512, 64K, 10M, 2G or 1T")
    power = _UNITS.index(found[2].upper()) + 1 if found[2] else 0
    return int(found[1]) << 10 * power


def parse_count(text: str) -> int:
    """Return a whole number, one or more.

    :raises ValueError: it is none.
    """
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise ValueError(f"got {text!r}, want a whole number, one or more")
    return int(text)
