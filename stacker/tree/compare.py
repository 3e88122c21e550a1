"""Compare an unpacked layer with its tar, entry by entry.

Two :class:`~stacker.tree.scan.Contents` come in: one of the layer's tar, one of the tree on disk.
Differences go out, each with the path and both values.  This module does not read file contents:
the diff_id of the whole layer covers them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from stacker.layer.symlinks import join
from stacker.tar.entry import Directory, File, Special, Symlink, Whiteout, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from stacker.tar.entry import Meta
    from stacker.tree.scan import Contents, Item

MOST_DIFFERENCES: Final = 1000
"""The number of differences of a layer or chain that are reported."""

_OLDEST: Final = -(1 << 31) * 10**9  # ext4 and XFS clamp times outside of 1901 to 2446
_NEWEST: Final = (1 << 34) * 10**9
ADDED_BY_KERNEL: Final = b"security.selinux"
"""The xattr that every file has on a system with SELinux."""
_KINDS: Final = {
    Directory: "directory",
    File: "file",
    Symlink: "symbolic link",
    Special: "device or FIFO",
    Whiteout: "whiteout",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which a file on disk differs from its entry.

    :param path: from the layer's root, without a leading slash.
    :param what: what differs: ``mode``, ``owner``, ``size``, ``contents`` …
    :param got: the value on disk; ``want`` the value in the layer.
    """

    path: bytes
    what: str
    got: str
    want: str

    def __str__(self) -> str:
        return f"/{printable(self.path)}: {self.what}: got {self.got}, want {self.want}"


def differences(got: Contents, want: Contents) -> Iterator[Difference]:
    """Yield every difference between a tree on disk and the entries of its layer.

    Access times are not compared, since reading a file changes them.

    :param got: the tree as it was scanned.
    :param want: the tree as the layer's tar describes it; its `owner` owns every file if set.
    """
    yield from _attributes(b"", got.top, want.top, want)
    for path in sorted(got.directories.keys() & want.directories.keys()):
        yield from _names(path, got, want)
    yield from _opaque(got, want)
    yield from _links(got, want)


def _names(path: bytes, got: Contents, want: Contents) -> Iterator[Difference]:
    here, there = got.directories[path], want.directories[path]
    if here.keys() != there.keys():
        for name in sorted(here.keys() ^ there.keys()):
            kinds = _kind(here.get(name)), _kind(there.get(name))
            yield Difference(join(path, name), "type", *kinds)
    for name, item in here.items():
        wanted = there.get(name)
        if wanted is item or wanted is None:  # the caller has compared it before, or it is extra
            continue
        if want.owner is not None or not _is_same(item, wanted):
            yield from _item(join(path, name), item, wanted, want)


def _is_same(got: Item, want: Item) -> bool:
    """Return whether two plain files or directories without xattrs are surely equal.

    Most entries are, and this costs much less than `_item`, which says how others differ.
    """
    kind = type(got)
    if kind is not type(want) or not (kind is File or kind is Directory):
        return False
    here: Meta = got.meta  # type: ignore[union-attr] # a union, told apart by type()
    there: Meta = want.meta  # type: ignore[union-attr]
    return (
        here.mtime == there.mtime
        and here.mode == there.mode
        and here.uid == there.uid
        and here.gid == there.gid
        and not here.xattrs
        and not there.xattrs
        and (kind is Directory or got.size == want.size)  # type: ignore[union-attr]
    )


def _item(path: bytes, got: Item, want: Item, layer: Contents) -> Iterator[Difference]:
    if type(got) is not type(want):
        yield Difference(path, "type", _kind(got), _kind(want))
        return
    if isinstance(got, Whiteout) or isinstance(want, Whiteout):
        return
    match got, want:
        case File(), File() if got.size != want.size:
            yield Difference(path, "size", f"{got.size} bytes", f"{want.size} bytes")
        case Symlink(), Symlink() if got.target != want.target:
            yield Difference(path, "target", printable(got.target), printable(want.target))
        case Special(), Special() if (got.kind, got.device) != (want.kind, want.device):
            yield Difference(path, "device", _device(got), _device(want))
        case _:
            pass
    if got.meta != want.meta:
        is_plain = isinstance(got, Directory | File)
        yield from _attributes(
            path, got.meta, want.meta, layer, has_mode=type(got) is not Symlink, has_user=is_plain
        )


def _attributes(
    path: bytes,
    got: Meta,
    want: Meta,
    layer: Contents,
    *,
    has_mode: bool = True,
    has_user: bool = True,
) -> Iterator[Difference]:
    if has_mode and got.mode != want.mode:
        yield Difference(path, "mode", f"{got.mode:04o}", f"{want.mode:04o}")
    owner = layer.owner or (want.uid, want.gid)
    if (got.uid, got.gid) != owner:
        yield Difference(path, "owner", f"{got.uid}:{got.gid}", f"{owner[0]}:{owner[1]}")
    if got.mtime != want.mtime and _OLDEST <= want.mtime < _NEWEST:
        yield Difference(path, "mtime", f"{got.mtime} ns", f"{want.mtime} ns")
    if got.xattrs or want.xattrs:
        yield from _xattrs(path, got.xattrs or {}, want.xattrs or {}, has_user=has_user)


def _xattrs(
    path: bytes, got: Mapping[bytes, bytes], want: Mapping[bytes, bytes], *, has_user: bool
) -> Iterator[Difference]:
    for name in sorted(got.keys() | want.keys()):
        found, wanted = got.get(name), want.get(name)
        if name.startswith(b"user.") and not has_user:
            wanted = None  # only files and directories have user.* (xattr(7))
        if found != wanted and not (wanted is None and name == ADDED_BY_KERNEL):
            yield Difference(path, f"xattr {printable(name)}", _value(found), _value(wanted))


def _opaque(got: Contents, want: Contents) -> Iterator[Difference]:
    for path in sorted(got.opaque ^ want.opaque):
        is_got = path in got.opaque
        yield Difference(path, "opaque", str(is_got).lower(), str(not is_got).lower())


def _links(got: Contents, want: Contents) -> Iterator[Difference]:
    found, wanted = _groups(got), _groups(want)
    for path in sorted(found.keys() | wanted.keys()):
        here, there = found.get(path, (path,)), wanted.get(path, (path,))
        if here != there and path == min(here[0], there[0]):
            yield Difference(path, "hard links", _listed(here), _listed(there))


def _groups(contents: Contents) -> dict[bytes, tuple[bytes, ...]]:
    """Return, for each path of a file with several names, all of its names."""
    names: dict[int, list[bytes]] = {}
    if not contents.shared:
        return {}
    for path, items in contents.directories.items():
        for name, item in items.items():
            if id(item) in contents.shared:
                names.setdefault(id(item), []).append(join(path, name))
    groups = (tuple(sorted(group)) for group in names.values() if len(group) > 1)
    return {path: group for group in groups for path in group}


def _kind(item: Item | None) -> str:
    return "nothing" if item is None else _KINDS[type(item)]


def _device(item: Special) -> str:
    return f"type {item.kind:06o}, device {item.device}"


def _value(value: bytes | None) -> str:
    return "none" if value is None else f"{len(value)} bytes {value[:16].hex()}"


def _listed(paths: tuple[bytes, ...]) -> str:
    return ", ".join("/" + printable(path) for path in paths[:8]) + (" …" if len(paths) > 8 else "")
