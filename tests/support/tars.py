"""Build archives, well-formed or hostile: each function returns bytes, ``tar`` joins them.

    tar(dir("d/"), file("d/a", b"x", mode=0o4755), symlink("l", "d"), whiteout("gone"))

A field may be the bytes to write, so that a header can be wrong.  A path or link target of more
than 100 bytes, and ``xattrs``, get a PAX header.  This module imports neither the package under
test nor tarfile, so the tests share no mistake with either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypedDict, Unpack

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)
MTIME: Final = 1_000_000_000
"""The default time of an entry: neither the current time nor the epoch."""

USTAR: Final = b"ustar\x0000"
GNU: Final = b"ustar  \0"
V7: Final = bytes(8)

Text = str | bytes
Number = int | bytes
"""A number to be written in octal (or base-256 where it does not fit), or a field's bytes."""


class Options(TypedDict, total=False):
    """Options of an entry besides its path: the fields of its header, and xattrs."""

    mode: Number
    uid: Number
    gid: Number
    size: Number
    mtime: Number
    checksum: Number
    flag: bytes
    link: Text
    magic: bytes
    user: Text
    group: Text
    major: Number
    minor: Number
    prefix: bytes
    xattrs: Mapping[str, bytes]


def raw(text: Text) -> bytes:
    """Return the bytes of a name."""
    return text.encode() if isinstance(text, str) else text


def base256(value: int, width: int) -> bytes:
    """Return a number in base-256, GNU tar's form of large and negative numbers."""
    field = bytearray((value % (1 << (8 * width))).to_bytes(width, "big"))
    field[0] |= 0x80
    return bytes(field)


def octal(value: Number, width: int) -> bytes:
    """Return a number field; bytes are not changed."""
    if isinstance(value, bytes):
        return value.ljust(width, b"\0")
    digits = b"%0*o\0" % (width - 1, value)
    return digits if value >= 0 and len(digits) == width else base256(value, width)


def header(path: Text, /, **fields: Unpack[Options]) -> bytes:
    """Return one header block, with a correct checksum unless ``checksum`` is given."""
    head = b"".join(
        (
            raw(path)[:100].ljust(100, b"\0"),
            octal(fields.get("mode", 0o644), 8),
            octal(fields.get("uid", 0), 8),
            octal(fields.get("gid", 0), 8),
            octal(fields.get("size", 0), 12),
            octal(fields.get("mtime", MTIME), 12),
        )
    )
    magic = fields.get("magic", USTAR)
    has_devices = magic != V7
    tail = b"".join(
        (
            fields.get("flag", b"0"),
            raw(fields.get("link", b""))[:100].ljust(100, b"\0"),
            magic,
            raw(fields.get("user", b"")).ljust(32, b"\0"),
            raw(fields.get("group", b"")).ljust(32, b"\0"),
            octal(fields.get("major", 0 if has_devices else bytes(8)), 8),
            octal(fields.get("minor", 0 if has_devices else bytes(8)), 8),
            fields.get("prefix", b"").ljust(155, b"\0"),
        )
    ).ljust(BLOCK - 156, b"\0")
    return _summed(head, tail, fields.get("checksum"))


def _summed(head: bytes, tail: bytes, checksum: Number | None) -> bytes:
    if checksum is None:
        checksum = sum(head) + 8 * 0x20 + sum(tail)
    field = checksum if isinstance(checksum, bytes) else b"%06o\0 " % checksum
    block = head + field + tail
    assert len(block) == BLOCK, (len(head), len(tail))
    return block


def resummed(block: bytes) -> bytes:
    """Return a changed header with a new checksum."""
    return _summed(block[:148], block[156:], None)


def padded(data: bytes) -> bytes:
    """Fill up to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def tar(*parts: bytes, end: bool = True) -> bytes:
    """Return an archive of entries, with an end marker by default."""
    return b"".join(parts) + (END if end else b"")


def entry(path: Text, data: bytes = b"", **options: Unpack[Options]) -> bytes:
    """Return an entry: the PAX header that it needs, its header, its payload."""
    name, link = raw(path), raw(options.get("link", b""))
    records = {f"SCHILY.xattr.{key}": value for key, value in options.get("xattrs", {}).items()}
    if len(name) > 100:
        records["path"] = name
    if len(link) > 100:
        records["linkpath"] = link
    options.setdefault("size", len(data))
    return (pax(**records) if records else b"") + header(name, **options) + padded(data)


def file(path: Text, data: bytes = b"", **options: Unpack[Options]) -> bytes:
    """Return a regular file."""
    return entry(path, data, **options)


def dir(path: Text, **options: Unpack[Options]) -> bytes:  # noqa: A001 - the name in ls(1)
    """Return a directory, by default with mode 0755."""
    options.setdefault("mode", 0o755)
    options.setdefault("flag", b"5")
    return entry(path, **options)


def symlink(path: Text, target: Text, **options: Unpack[Options]) -> bytes:
    """Return a symbolic link."""
    options.setdefault("mode", 0o777)
    options.setdefault("flag", b"2")
    options["link"] = target
    return entry(path, **options)


def hardlink(path: Text, target: Text, **options: Unpack[Options]) -> bytes:
    """Return a hard link."""
    options.setdefault("flag", b"1")
    options["link"] = target
    return entry(path, **options)


def char(path: Text, major: Number, minor: Number, /, **options: Unpack[Options]) -> bytes:
    """Return a character device."""
    options.setdefault("flag", b"3")
    options["major"], options["minor"] = major, minor
    return entry(path, **options)


def block(path: Text, major: Number, minor: Number, /, **options: Unpack[Options]) -> bytes:
    """Return a block device."""
    options.setdefault("flag", b"4")
    options["major"], options["minor"] = major, minor
    return entry(path, **options)


def fifo(path: Text, **options: Unpack[Options]) -> bytes:
    """Return a FIFO."""
    options.setdefault("flag", b"6")
    return entry(path, **options)


def whiteout(path: Text, **options: Unpack[Options]) -> bytes:
    """Hide ``path`` of the lower layers."""
    parent, slash, name = raw(path).rpartition(b"/")
    return entry(parent + slash + b".wh." + name, **options)


def opaque(path: Text = b"", **options: Unpack[Options]) -> bytes:
    """Hide the lower layers' content of the directory ``path``."""
    parent = raw(path).rstrip(b"/")
    return entry((parent + b"/" if parent else b"") + b".wh..wh..opq", **options)


def record(key: Text, value: Text) -> bytes:
    """Return one PAX record, whose length counts its own digits."""
    body = b" " + raw(key) + b"=" + raw(value) + b"\n"
    length = len(body) + len(str(len(body)))
    length = len(body) + len(str(length))
    return str(length).encode() + body


def pax_header(payload: bytes, /, **fields: Unpack[Options]) -> bytes:
    """Return an extended header with any payload, well-formed or not."""
    fields.setdefault("size", len(payload))
    fields.setdefault("flag", b"x")
    return header("PaxHeaders/0", **fields) + padded(payload)


def pax(*repeated: tuple[Text, Text], **records: Text) -> bytes:
    """Return a PAX header for the next entry; ``repeated`` records keep their order."""
    return pax_header(_records(repeated, records))


def pax_global(*repeated: tuple[Text, Text], **records: Text) -> bytes:
    """Return a global PAX header."""
    return pax_header(_records(repeated, records), flag=b"g")


def _records(repeated: Sequence[tuple[Text, Text]], records: Mapping[str, Text]) -> bytes:
    return b"".join(record(key, value) for key, value in (*repeated, *records.items()))


def gnu_name(path: Text) -> bytes:
    """Return GNU's header for a long name."""
    return _long(b"L", raw(path))


def gnu_link(target: Text) -> bytes:
    """Return GNU's header for a long link target."""
    return _long(b"K", raw(target))


def _long(flag: bytes, name: bytes) -> bytes:
    payload = name + b"\0"
    head = header("././@LongLink", flag=flag, size=len(payload), mtime=0, magic=GNU)
    return head + padded(payload)


Segments = Sequence[tuple[int, bytes]]
"""Where the data of a sparse file stand, and what they are."""


def _stored(segments: Segments) -> bytes:
    return b"".join(data for _, data in segments)


def sparse_old(path: Text, size: int, segments: Segments, /, **options: Unpack[Options]) -> bytes:
    """Return a sparse file in GNU's old form: four segments in the header, 21 a block after it."""
    data = _stored(segments)
    pairs = [octal(at, 12) + octal(len(part), 12) for at, part in segments]
    options.setdefault("size", len(data))
    options.setdefault("flag", b"S")
    options.setdefault("magic", GNU)
    head = bytearray(header(path, **options))
    head[386:482] = b"".join(pairs[:4]).ljust(96, b"\0")
    head[482] = len(pairs) > 4
    head[483:495] = octal(size, 12)
    more = b""
    for at in range(4, len(pairs), 21):
        area = b"".join(pairs[at : at + 21]).ljust(504, b"\0")
        more += area + (b"\x01" if len(pairs) > at + 21 else b"\0") + bytes(7)
    return resummed(bytes(head)) + more + padded(data)


def sparse_00(path: Text, size: int, segments: Segments, /, **options: Unpack[Options]) -> bytes:
    """Return a sparse file as PAX version 0.0: repeated offset and numbytes."""
    map_: list[tuple[Text, Text]] = [("GNU.sparse.size", str(size))]
    map_.append(("GNU.sparse.numblocks", str(len(segments))))
    for at, data in segments:
        map_ += [("GNU.sparse.offset", str(at)), ("GNU.sparse.numbytes", str(len(data)))]
    return pax(*map_) + file(path, _stored(segments), **options)


def sparse_01(path: Text, size: int, segments: Segments, /, **options: Unpack[Options]) -> bytes:
    """Return a sparse file as PAX version 0.1: one map, the name in a record."""
    listed = ",".join(f"{at},{len(data)}" for at, data in segments)
    return pax(
        ("GNU.sparse.size", str(size)),
        ("GNU.sparse.numblocks", str(len(segments))),
        ("GNU.sparse.map", listed),
        ("GNU.sparse.name", raw(path)),
    ) + file("GNUSparseFile.0/x", _stored(segments), **options)


def sparse_10(path: Text, size: int, segments: Segments, /, **options: Unpack[Options]) -> bytes:
    """Return a sparse file as PAX version 1.0: the map at the start of the payload."""
    numbers = [len(segments)]
    for at, data in segments:
        numbers += [at, len(data)]
    map_ = padded("".join(f"{number}\n" for number in numbers).encode())
    return pax(
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", raw(path)),
        ("GNU.sparse.realsize", str(size)),
    ) + file("GNUSparseFile.0/x", map_ + _stored(segments), **options)
