"""Layers that have each feature of an EROFS index, and their images on disk."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from stacker.layer.paths import MergedIndex
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.tar.limits import Limits
from tests.support import tars
from tests.support.acls import for_user
from tests.support.indexes import index_of
from tests.support.unpacking import FORMAT, IDMAP

LONG: str = "n" * 255
BASE: int = tars.MTIME
"""The time that most inodes of a layer have, so that they are compact."""

ACL: bytes = for_user(1000, 4, mask=4)
CAPABILITY: bytes = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)


def _sparse() -> list[bytes]:
    makers = (tars.sparse_old, tars.sparse_00, tars.sparse_01, tars.sparse_10)
    maps = {
        "aligned": (1 << 16, [(4096, b"a" * 4096), (32768, b"b" * 8192)]),
        "blocks": (9000, [(512, b"a" * 512), (8192, b"b" * 808)]),
        "end": (70_001, [(0, b"a" * 512), (70_001, b"")]),
        "unaligned": (1 << 17, [(1, b"a" * 10), (4090, b"b" * 12), (100_000, b"c" * 5000)]),
        "hole": (1 << 20, []),
        "many": (1 << 18, [(n * 4096 + n, b"x" * 7) for n in range(60)]),
    }
    return [
        make(f"{make.__name__}-{name}", size, segments)
        for make in makers
        for name, (size, segments) in maps.items()
    ]


def _names(count: int, length: int) -> list[bytes]:
    return [tars.file(f"d/{n:05}" + "x" * (length - 5)) for n in range(count)]


def _same_size_xattrs(count: int) -> list[bytes]:
    xattrs = {f"user.{n:03}": b"%d" % n for n in range(count)}
    return [tars.file("a", xattrs=xattrs), tars.file("b", xattrs=xattrs)]


LAYERS: dict[str, list[bytes]] = {
    "empty": [],
    "root": [tars.dir("./", mode=0o1777, uid=7, mtime=5)],
    "files": [tars.file(f"f{size}", bytes([size % 251]) * size) for size in (0, 1, 511, 512, 5000)],
    "owners": [
        tars.file("compact", uid=65535, gid=65535),
        tars.file("extended", uid=65536, gid=0xFFFF_FFFE),
        tars.dir("directory", uid=100_000),
    ],
    "times": [
        tars.pax(mtime="1.999999999") + tars.file("fractional"),
        tars.pax(mtime="-1.5") + tars.file("negative"),
        tars.pax(mtime="5000000000") + tars.dir("late"),
        tars.file("most"),
        tars.file("again"),
    ],
    "negative times": [tars.pax(mtime="-2.25") + tars.file(f"f{n}") for n in range(5)],
    "one block": _names(10, 20),
    "two blocks": _names(12, 60),
    "many blocks": _names(300, 100),
    "full block": [*_names(6, 80), tars.file("d/" + "y" * 20)],
    "long names": [tars.file(f"d/{n}{LONG[1:]}", b"x") for n in range(8)] + [tars.dir(LONG)],
    "nested": [tars.file("/".join("abcdefgh"), b"deep"), tars.dir("a/b/empty")],
    "devices": [
        tars.char("null", 1, 3),
        tars.block("disk", 8, 1),
        tars.char("large", 4095, 1048575),
        tars.fifo("fifo", uid=3),
    ],
    "symlinks": [
        tars.symlink("short", "x"),
        tars.symlink("block", "t" * 480),
        tars.symlink("extended", "t" * 448, uid=70_000),
        tars.symlink("long", "t/" * 300),
        tars.symlink("longest", "t" * 4095),
    ],
    "hard links": [
        tars.hardlink("before", "file"),
        tars.file("file", b"content"),
        tars.hardlink("d/after", "file"),
        tars.symlink("s", "file"),
        tars.hardlink("to-symlink", "s"),
        tars.fifo("p"),
        tars.hardlink("to-fifo", "p"),
    ],
    "xattrs": [
        tars.file("user", b"1", xattrs={"user.a": b"\0\xff", "user.empty": b""}),
        tars.file("shared", b"1", xattrs={"user.a": b"\0\xff", "trusted.b": b"t"}),
        tars.dir("directory", xattrs={"trusted.b": b"t", "security.selinux": b"x:y:z"}),
        tars.file("large", xattrs={"user.large": b"v" * 3000}),
        tars.dir("large-directory", xattrs={"user.large": b"w" * 2000}),
        tars.file("large-directory/file"),
        tars.file("overlay", xattrs={"trusted.overlay.opaque": b"y"}),
        tars.symlink("symlink", "t" * 400, xattrs={"trusted.b": b"t" * 300}),
    ],
    "xattrs of all sizes": [
        tars.file(f"f{size}", b"12", xattrs={"user.n": b"v" * size}) for size in range(40)
    ],
    "security": [
        tars.file("capability", xattrs={"security.capability": CAPABILITY}),
        tars.file("acl", mode=0o640, xattrs={"system.posix_acl_access": ACL}),
        tars.file("same-acl", mode=0o640, xattrs={"system.posix_acl_access": ACL}),
        tars.dir("default", xattrs={"system.posix_acl_default": ACL}),
    ],
    "whiteouts": [
        tars.dir("d/"),
        tars.file("d/new"),
        tars.opaque("d"),
        tars.whiteout("gone"),
        tars.whiteout("implied/gone"),
        tars.opaque("implied/opaque"),
    ],
    "replaced": [
        tars.file("a", b"first"),
        tars.file("a", b"second"),
        tars.dir("d"),
        tars.file("d/x"),
        tars.symlink("d", "a"),
        tars.file("f"),
        tars.dir("f"),
        tars.file("f/inside", b"1"),
    ],
    "sparse": _sparse(),
}
"""A list of entries for each feature."""

SHARED: list[bytes] = _same_size_xattrs(300)
"""More shared xattrs than a count of 8 bits; ext4 cannot hold them."""


@dataclass(frozen=True)
class OnDisk:
    """The image of a layer, and its tar."""

    index: Path
    tar: Path

    @property
    def merged(self) -> MergedIndex:
        """What a mount needs."""
        return MergedIndex(self.index, (self.tar,))


def on_disk(directory: Path, parts: list[bytes], *, limits: Limits | None = None) -> OnDisk:
    """Write the tar of a layer, and its index."""
    made = OnDisk(directory / "index.erofs", directory / "layer.tar")
    form = WhiteoutFormat(FORMAT)
    index, _ = index_of(
        tars.tar(*parts), made.tar, whiteout_format=form, idmap=IDMAP, limits=limits
    )
    made.index.write_bytes(index)
    return made
