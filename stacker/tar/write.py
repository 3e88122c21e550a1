"""Encode the header of a tar member: ustar, with a PAX header for what ustar cannot hold.

The attributes of a member come in; the blocks before its payload go out.  Equal attributes give
equal bytes.  Sources: POSIX pax, *ustar Interchange Format* and *pax Extended Header*; the GNU tar
manual, *Storing Sparse Files* (format 1.0).  This module must not read files or trees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from stacker.errors import UnsupportedError
from stacker.tar.entry import printable
from stacker.tar.pax import SCHILY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from stacker.tar.entry import Segment

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)
"""The blocks after the last member."""

_NAME: Final = 100
_ID_LIMIT: Final = 1 << 21  # seven octal digits
_LIMIT: Final = 1 << 33  # eleven octal digits
_SECOND: Final = 1_000_000_000
_BINARY: Final = b"hdrcharset", b"BINARY"
_SPARSE_DIRECTORY: Final = b"GNUSparseFile.0/"


class Member(NamedTuple):
    """The attributes of one member of a tar.

    :param kind: its typeflag: ``b"0"`` for a regular file.
    :param size: the bytes of its payload.
    :param mtime: nanoseconds since the epoch.
    :param target: the target of a symbolic or hard link.
    :param device: the major and the minor number.
    :param sparse: the size of a sparse file with its holes; ``None`` for other files.
    """

    name: bytes
    kind: bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[bytes, bytes] = {}
    sparse: int | None = None


def member_header(member: Member) -> bytes:
    """Return the blocks before the payload of a member.

    :raises UnsupportedError: PAX cannot hold the name of an xattr.
    """
    records = b"".join(_record(key, value) for key, value in _records(member))
    name = member.name if member.sparse is None else _SPARSE_DIRECTORY + member.name[-80:]
    header = _ustar(member._replace(name=name))
    if not records:
        return header
    extended = Member(b"pax", b"x", size=len(records))
    return _ustar(extended) + padded(records) + header


def sparse_map(segments: Sequence[Segment]) -> bytes:
    """Return the map that precedes the data of a sparse file.

    :param segments: where the data belongs in the file, in order.  All but the last must have whole
        blocks: GNU tar starts each at a block of the tar, and libarchive does not.
    """
    numbers = [len(segments), *(number for segment in segments for number in segment)]
    return padded(b"".join(b"%d\n" % number for number in numbers))


def padded(data: bytes) -> bytes:
    """Return data with zeros up to a multiple of a block."""
    return data + bytes(-len(data) % BLOCK)


def _records(member: Member) -> Iterable[tuple[bytes, bytes]]:
    """Yield the PAX records of a member; `hdrcharset` comes before the values that it describes."""
    texts = [(b"path", member.name), (b"linkpath", member.target)]
    needed = [(key, value) for key, value in texts if len(value) > _NAME or not _is_text(value)]
    if any(not _is_text(value) for _, value in needed):
        yield _BINARY
    if member.sparse is not None:
        needed = [(b"GNU.sparse.name", member.name), *needed[1:]]
        yield from ((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"))
        yield b"GNU.sparse.realsize", b"%d" % member.sparse
    yield from needed
    for key, number, limit in (
        (b"uid", member.uid, _ID_LIMIT),
        (b"gid", member.gid, _ID_LIMIT),
        (b"size", member.size, _LIMIT),
    ):
        if number >= limit:
            yield key, b"%d" % number
    if member.mtime % _SECOND or not 0 <= member.mtime < _LIMIT * _SECOND:
        yield b"mtime", _time(member.mtime)
    for key in sorted(member.xattrs):
        if b"=" in key:
            raise UnsupportedError(
                f"cannot write to a tar: /{printable(member.name)}: got the xattr name "
                f"{printable(key)}, want one without `=`"
            )
        yield SCHILY + key, member.xattrs[key]


def _record(key: bytes, value: bytes) -> bytes:
    """Return a PAX record; its length field counts its own digits."""
    body = b" %s=%s\n" % (key, value)
    length = len(body)
    while len(b"%d" % length) + len(body) != length:
        length = len(b"%d" % length) + len(body)
    return b"%d%s" % (length, body)


def _ustar(member: Member) -> bytes:
    seconds = max(0, member.mtime) // _SECOND
    major, minor = member.device
    head = b"%s%s%s%s%s%s" % (
        member.name[:_NAME].ljust(_NAME, b"\0"),
        _octal(member.mode, 8),
        _octal(member.uid, 8),
        _octal(member.gid, 8),
        _octal(member.size, 12),
        _octal(seconds, 12),
    )
    tail = b"%s%sustar\x0000%s%s%s" % (
        member.kind,
        member.target[:_NAME].ljust(_NAME, b"\0"),
        bytes(64),
        _octal(major, 8) if any(member.device) else bytes(8),
        _octal(minor, 8) if any(member.device) else bytes(8),
    )
    tail = tail.ljust(BLOCK - len(head) - 8, b"\0")
    return b"%s%06o\0 %s" % (head, sum(head) + 8 * 0x20 + sum(tail), tail)


def _octal(number: int, width: int) -> bytes:
    """Return an octal field; zero if the number is in the PAX header, as its reader expects."""
    digits = width - 1
    return b"%0*o\0" % (digits, number if number < 8**digits else 0)


def _time(nanoseconds: int) -> bytes:
    """Return a decimal time in seconds, without zeros at the end of the fraction."""
    whole, fraction = divmod(abs(nanoseconds), _SECOND)
    sign = b"-" if nanoseconds < 0 else b""
    digits = (b".%09d" % fraction).rstrip(b"0") if fraction else b""
    return b"%s%d%s" % (sign, whole, digits)


def _is_text(value: bytes) -> bool:
    """Return whether PAX can hold a value without another character set."""
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
