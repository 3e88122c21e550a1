"""Sparse files in tar: three PAX forms and GNU's old one (GNU tar manual, *Storing Sparse Files*).

In: header bytes, PAX records or the start of a payload.  Out: where the stored bytes belong.
Knows no disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from stacker.errors import LayerError
from stacker.tar import pax
from stacker.tar.entry import Segment
from stacker.tar.limits import Limits

BLOCK = 512
_OLD_IN_HEADER = 4
_OLD_IN_EXTENSION = 21
_VERSIONS = {(b"0", b"0"): 0, (b"0", b"1"): 0, (b"1", b"0"): 1}
_SIZE_OR_MAP = (
    b"GNU.sparse.size",
    b"GNU.sparse.realsize",
    b"GNU.sparse.map",
    b"GNU.sparse.offset",
)


def checked(
    segments: Sequence[Segment], *, size: int, stored: int, what: str
) -> tuple[Segment, ...]:
    """Give ``segments`` back when they are in order, inside the file, and add up to ``stored``.

    :raises LayerError: they overlap, run past ``size`` or disagree with the stored bytes.
    """
    at = total = 0
    if size < 0:
        raise LayerError(f"malformed sparse map: {what}: got a size of {size}, want 0 or more")
    for offset, length in segments:
        if offset < at or length < 0 or offset + length > size:
            raise LayerError(
                f"malformed sparse map: {what}: got a segment of {length} bytes at {offset}, "
                f"want it after {at} and inside {size} bytes"
            )
        at, total = offset + length, total + length
    if total != stored:
        raise LayerError(
            f"malformed sparse map: {what}: got segments of {total} bytes, want the {stored} stored"
        )
    return tuple(segment for segment in segments if segment.length)


def from_records(
    repeated: Sequence[tuple[bytes, bytes]], number: Callable[[bytes], int]
) -> list[Segment]:
    """Read versions 0.0 (repeated offset and numbytes) and 0.1 (one comma separated map)."""
    listed: list[int] = []
    for key, value in repeated:
        if key == b"GNU.sparse.map":
            listed = [number(part) for part in value.split(b",")] if value else []
        elif key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            listed.append(number(value))
    return [Segment(*pair) for pair in zip(listed[::2], listed[1::2], strict=False)]


def version(values: Mapping[bytes, bytes]) -> int | None:
    """Say which PAX form records are of.

    Of an unknown version, or with neither version, size nor map, they make no sparse file: other
    readers then take the header's name and the payload as it is (Go's archive/tar), and a name
    that only some of them see could hide a file.

    :returns: 0: the map is in the records; 1: it stands at the start of the payload; or ``None``.
    """
    given = values.get(b"GNU.sparse.major", b""), values.get(b"GNU.sparse.minor", b"")
    if given == (b"", b""):
        return 0 if any(values.get(key) for key in _SIZE_OR_MAP) else None
    return _VERSIONS.get(given)


def from_payload(
    take: Callable[[int], bytes], stored: int, limits: Limits, what: str
) -> tuple[list[Segment], int]:
    """Read version 1.0: decimal lines at the start of the payload, padded to a block.

    :param take: gives the next bytes of the payload.
    :returns: the segments, and the bytes of the payload that the map took.
    """
    text, used = b"", 0

    def line() -> int:
        nonlocal text, used
        while b"\n" not in text:
            if used + BLOCK > min(stored, limits.pax_bytes):
                raise LayerError(
                    f"malformed sparse map: {what}: got no end within {used} bytes of the payload"
                )
            text += take(BLOCK)
            used += BLOCK
        number, _, text = text.partition(b"\n")
        return pax.decimal(number, "sparse map", what)

    count = line()
    segments: list[Segment] = []
    while len(segments) < count:
        offset = line()
        segments.append(Segment(offset, line()))
    return segments, used


def from_old_header(
    rest: bytes,
    take: Callable[[int], bytes],
    number: Callable[[bytes], int],
    limits: Limits,
    what: str,
) -> tuple[list[Segment], int]:
    """Read GNU's old form: four segments in the header, the others in blocks behind it.

    :param rest: the header from byte 257 on.
    :param take: gives the next bytes of the stream.
    :param number: decodes a 12-byte numeric field.
    :returns: the segments and the file's real size.
    """
    segments = _old_segments(rest[129:225], _OLD_IN_HEADER, number)
    size, more, used = number(rest[226:238]), rest[225], 0
    while more:
        used += BLOCK
        if used > limits.pax_bytes:
            raise LayerError(
                f"over a limit: {what}: got more than {limits.pax_bytes} bytes of sparse map",
                hint="raise the limit with --max-pax-bytes if you trust the image",
            )
        block = take(BLOCK)
        segments += _old_segments(block[:504], _OLD_IN_EXTENSION, number)
        more = block[504]
    return segments, size


def _old_segments(area: bytes, count: int, number: Callable[[bytes], int]) -> list[Segment]:
    found = []
    for at in range(0, count * 24, 24):
        if area[at] == 0:
            break
        found.append(Segment(number(area[at : at + 12]), number(area[at + 12 : at + 24])))
    return found
