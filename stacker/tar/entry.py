"""What one tar entry asks for, as a type.

In: the fields of a header, already decoded.  Out: one of the types below, with a normalised
path.  This is the only place where a name that starts with ``.wh.`` means something.  Knows
no disk and no tar bytes.

Paths are bytes without a leading, trailing or doubled slash; the root is ``b""``.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Final, NamedTuple, TypeAlias

from stacker.errors import LayerError

WHITEOUT_PREFIX: Final = b".wh."
OPAQUE_NAME: Final = b".wh..wh..opq"
BOOKKEEPING_PREFIX: Final = b".wh..wh."

Xattrs: TypeAlias = Mapping[bytes, bytes]
"""Extended attributes by full name, e.g. ``security.capability``."""


class Meta(NamedTuple):
    """Owner, mode and times; times are nanoseconds since the epoch."""

    mode: int
    uid: int
    gid: int
    mtime: int
    atime: int
    xattrs: Xattrs | None


class Segment(NamedTuple):
    """A run of data in a sparse file: bytes from ``offset`` for ``length``."""

    offset: int
    length: int


class File(NamedTuple):
    """A regular file.

    ``size`` is what the file will have; ``stored`` is what the stream carries (less, when
    ``segments`` says where the data of a sparse file belong).
    """

    path: bytes
    meta: Meta
    size: int
    stored: int
    segments: tuple[Segment, ...] | None = None


class Directory(NamedTuple):
    """A directory with attributes of its own."""

    path: bytes
    meta: Meta


class Symlink(NamedTuple):
    """A symbolic link; ``target`` is data and never rewritten."""

    path: bytes
    meta: Meta
    target: bytes


class HardLink(NamedTuple):
    """A further name for ``target``, a normalised path from the root."""

    path: bytes
    target: bytes


class Special(NamedTuple):
    """A device or a FIFO; ``kind`` is the ``S_IF*`` constant."""

    path: bytes
    meta: Meta
    kind: int
    device: int


class Whiteout(NamedTuple):
    """Hide ``path`` of the layers below (image-spec layer.md, *Whiteouts*)."""

    path: bytes


class OpaqueWhiteout(NamedTuple):
    """Hide what the layers below have in the directory ``path`` (*Opaque Whiteout*)."""

    path: bytes


class Known(NamedTuple):
    """A regular file that exists already: ``source`` is its place on disk.

    No tar gives this; it is what a :class:`File` becomes when a layer is applied once more.
    """

    path: bytes
    size: int
    source: bytes


class Bookkeeping(NamedTuple):
    """AUFS's own ``.wh..wh.*`` files: they mean nothing to anybody else and are skipped."""

    path: bytes


Entry: TypeAlias = (
    File
    | Directory
    | Symlink
    | HardLink
    | Special
    | Whiteout
    | OpaqueWhiteout
    | Bookkeeping
    | Known
)


def normalised(name: bytes) -> bytes:
    """Clean ``name`` lexically; ``..`` and absolute names stay inside the root."""
    if name[-1:] == b"/":
        name = name.rstrip(b"/")
    if name[:2] == b"./":
        name = name[2:]
    if name[:1] != b"/" and name[:1] != b"." and b"/." not in name and b"//" not in name:
        return name
    return _cleaned(name)


def _cleaned(name: bytes) -> bytes:
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def whiteout_of(path: bytes) -> Whiteout | OpaqueWhiteout | Bookkeeping | None:
    """Say what ``path`` means when its last component starts with ``.wh.``.

    :raises LayerError: the rest of the name is empty, ``.`` or ``..``: no file has that name,
        and tools that cut the prefix off have deleted a parent directory for it.
    """
    parent, _, base = path.rpartition(b"/")
    if base == OPAQUE_NAME:
        return OpaqueWhiteout(parent)
    if (b"/" + path).find(b"/" + BOOKKEEPING_PREFIX) >= 0:
        return Bookkeeping(path)
    if (b"/" + parent).find(b"/" + WHITEOUT_PREFIX) >= 0:
        raise LayerError(
            f"malformed whiteout: {shown(path)}: got a path below a name that is reserved for "
            "whiteouts, want a file name"
        )
    if not base.startswith(WHITEOUT_PREFIX):
        return None
    hidden = base[len(WHITEOUT_PREFIX) :]
    if hidden in (b"", b".", b".."):
        raise LayerError(
            f"malformed whiteout: {shown(path)}: got the name {shown(hidden)!r} to hide, "
            "want a file name"
        )
    return Whiteout(parent + b"/" + hidden if parent else hidden)


def is_redundant(path: bytes, hidden: Container[bytes], emptied: Container[bytes]) -> bool:
    """Return whether another whiteout of the same layer already hides everything around ``path``.

    :param hidden: the paths of the layer's whiteouts.
    :param emptied: the directories of its opaque whiteouts.
    """
    while path:
        path = path.rpartition(b"/")[0]
        if path in emptied or (path and path in hidden):
            return True
    return False


def without_user_xattrs(xattrs: Xattrs) -> Xattrs:
    """Return the xattrs that a symbolic link or special file can have.

    The kernel supports ``user.*`` only on regular files and directories (xattr(7)).
    """
    return {name: value for name, value in xattrs.items() if not name.startswith(b"user.")}


def shown(name: bytes) -> str:
    """Give a path a printable form for messages: UTF-8 where it is, escapes where it is not."""
    text = name.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
