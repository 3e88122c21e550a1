"""The types of tar entries, and the names in them.

Decoded header fields come in; one of the types below, with a normalised path, goes out.  Only
this module gives a meaning to names that start with ``.wh.``.  It must not read tar bytes or
touch a filesystem.

Paths are bytes without a leading, trailing or doubled slash; the root is ``b""``.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Final, NamedTuple, TypeAlias

from stacker.errors import LayerError

WHITEOUT_PREFIX: Final = b".wh."
OPAQUE_NAME: Final = b".wh..wh..opq"
AUFS_PREFIX: Final = b".wh..wh."

Xattrs: TypeAlias = Mapping[bytes, bytes]
"""Extended attributes by full name, e.g. ``security.capability``."""


class Meta(NamedTuple):
    """Mode, owner, times and xattrs; times are nanoseconds since the epoch."""

    mode: int
    uid: int
    gid: int
    mtime: int
    atime: int
    xattrs: Xattrs | None


class Segment(NamedTuple):
    """A range of data in a sparse file: ``length`` bytes from ``offset``."""

    offset: int
    length: int


class File(NamedTuple):
    """A regular file.

    :param size: the length of the file in bytes.
    :param stored: the length of the payload; less than ``size`` in a sparse file.
    :param segments: where the payload of a sparse file belongs; ``None`` for any other file.
    """

    path: bytes
    meta: Meta
    size: int
    stored: int
    segments: tuple[Segment, ...] | None = None


class Directory(NamedTuple):
    """A directory that has an entry, and so has attributes."""

    path: bytes
    meta: Meta


class Symlink(NamedTuple):
    """A symbolic link; ``target`` is data and is never rewritten."""

    path: bytes
    meta: Meta
    target: bytes


class HardLink(NamedTuple):
    """Another name for ``target``, which is a normalised path from the root."""

    path: bytes
    target: bytes


class Special(NamedTuple):
    """A device or a FIFO; ``kind`` is its ``S_IF*`` constant."""

    path: bytes
    meta: Meta
    kind: int
    device: int


class Whiteout(NamedTuple):
    """Hides ``path`` in the layers below (image-spec layer.md, *Whiteouts*)."""

    path: bytes


class OpaqueWhiteout(NamedTuple):
    """Hides the contents of the directory ``path`` in the layers below (*Opaque Whiteout*)."""

    path: bytes


class ExistingFile(NamedTuple):
    """A regular file to hard link from ``source``, a path on disk.

    No tar contains this.  It replaces a :class:`File` when an unpacked layer is applied again.
    """

    path: bytes
    size: int
    source: bytes


class AufsFile(NamedTuple):
    """A ``.wh..wh.*`` file of AUFS; other programs ignore it."""

    path: bytes


Entry: TypeAlias = (
    File
    | Directory
    | Symlink
    | HardLink
    | Special
    | Whiteout
    | OpaqueWhiteout
    | AufsFile
    | ExistingFile
)


def normalised(name: bytes) -> bytes:
    """Return ``name`` as a path from the root; ``..`` and absolute names stay inside the root."""
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


def parse_whiteout(path: bytes) -> Whiteout | OpaqueWhiteout | AufsFile | None:
    """Return the whiteout that ``path`` is, or ``None`` for an ordinary name.

    :raises LayerError: the rest of the name is empty, ``.`` or ``..``.  No file has such a name,
        and tools that strip the prefix have deleted a parent directory for it.
    """
    parent, _, base = path.rpartition(b"/")
    if base == OPAQUE_NAME:
        return OpaqueWhiteout(parent)
    if (b"/" + path).find(b"/" + AUFS_PREFIX) >= 0:
        return AufsFile(path)
    if (b"/" + parent).find(b"/" + WHITEOUT_PREFIX) >= 0:
        raise LayerError(
            f"malformed whiteout: {printable(path)}: got a path below a name that is reserved for "
            "whiteouts, want a file name"
        )
    if not base.startswith(WHITEOUT_PREFIX):
        return None
    hidden = base[len(WHITEOUT_PREFIX) :]
    if hidden in (b"", b".", b".."):
        raise LayerError(
            f"malformed whiteout: {printable(path)}: got the name {printable(hidden)!r} to hide, "
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


def printable(name: bytes) -> str:
    """Return a path as text for a message: valid UTF-8 as it is, other bytes escaped."""
    text = name.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
