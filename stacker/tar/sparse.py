"""Parse the maps of sparse files: three PAX forms and GNU's old form.

Header bytes, PAX records or the start of a payload come in; segments go out (GNU tar manual,
*Storing Sparse Files*).  This module must not write files.
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
    """Return the non-empty ``segments`` after checking their order, bounds and total.

    :raises LayerError: they overlap, exceed ``size``, or do not add up to ``stored`` bytes.
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
    """Parse versions 0.0 (repeated offset and numbytes) and 0.1 (one comma-separated map)."""
    listed: list[int] = []
    for key, value in repeated:
        if key == b"GNU.sparse.map":
            listed = [number(part) for part in value.split(b",")] if value else []
        elif key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            listed.append(number(value))
    return [Segment(*pair) for pair in zip(listed[::2], listed[1::2], strict=False)]


def version(values: Mapping[bytes, bytes]) -> int | None:
    """Return which PAX form the records have.

    Records of an unknown version do not describe a sparse file.  Records without version, size and
    map do not either.  Go's archive/tar then uses the header's name and the plain payload.  If
    readers saw different names, an image could hide a file from some of them.

    :returns: 0 if the map is in the records, 1 if it is at the start of the payload, or ``None``.
    """
    given = values.get(b"GNU.sparse.major", b""), values.get(b"GNU.sparse.minor", b"")
    if given == (b"", b""):
        return 0 if any(values.get(key) for key in _SIZE_OR_MAP) else None
    return _VERSIONS.get(given)


def from_payload(
    take: Callable[[int], bytes], stored: int, limits: Limits, what: str
) -> tuple[list[Segment], int]:
    """Parse version 1.0: decimal lines at the start of the payload, padded to a block.

    :param take: returns the next bytes of the payload.
    :param stored: the length of the payload in bytes.
    :returns: the segments, and the length of the map in the payload.
    """
    text, used = b"", 0

    def line() -> int:
        nonlocal text, used
        while b"\n" not in text:
            if used + BLOCK > min(stored, limits.pax_bytes):
                raise LayerError(
                    f"malformed sparse map: {what}: got no end within {used} bytes of the payload, "
                    "want the whole map"
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
    """Parse GNU's old form: four segments in the header, the others in the blocks after it.

    :param rest: the header from byte 257 on.
    :param take: returns the next bytes of the stream.
    :param number: decodes a 12-byte numeric field.
    :returns: the segments, and the length of the file in bytes.
    """
    segments = _old_segments(rest[129:225], _OLD_IN_HEADER, number)
    size, more, used = number(rest[226:238]), rest[225], 0
    while more:
        used += BLOCK
        if used > limits.pax_bytes:
            raise LayerError(
                f"over a limit: {what}: got more than {limits.pax_bytes} bytes of sparse map, "
                "want fewer",
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
