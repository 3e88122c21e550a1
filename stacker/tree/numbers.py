"""Inode numbers that are the same in every mount, and equal to those of overlayfs.

Directories of layers come in; the inode numbers of their files on disk go out.  A file that was
copied up keeps the number of the lower file, which overlayfs's xattr *origin* names by a file
handle (overlayfs.rst, *Inode properties*; struct ovl_fb, fs/overlayfs/overlayfs.h).  This module
must not use a merged tree.

Numbers of the lowest layer's filesystem are those on disk.  Those of each further filesystem have
its number in their high bits, as with overlayfs's option ``xino``.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from array import array
from contextlib import contextmanager
from functools import cached_property
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from stacker.linux import opath
from stacker.linux.inode_attributes import (
    UUID_SIZE,
    FileHandle,
    birth_time,
    file_flags,
    filesystem_uuid,
    handle_of,
)
from stacker.tree.protocol import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stacker.tree.protocol import Node

FILESYSTEM_BIT: Final = 56
UNKNOWN: Final = 1 << 63
"""Added to the number of a file that is not on disk, so that it equals no other one."""
_LIST: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# struct ovl_fb: version, magic, len, flags, type, uuid; the file handle follows
_HEAD: Final = Struct(f"=BBBBB{UUID_SIZE}s")
_VERSION, _MAGIC = 0, 0xFB
_NATIVE: Final = 0 if sys.byteorder == "little" else 1  # OVL_FH_FLAG_CPU_ENDIAN
_ANY_ENDIAN: Final = 1 << 1
ORIGIN, IMPURE = b"origin", b"impure"
"""The marks of a copied-up file, and of a directory that can have such files."""


class Origin(NamedTuple):
    """What the xattr *origin* says: the lower file that a file was copied up from.

    :param uuid: the UUID of the lower file's filesystem.
    """

    uuid: bytes
    handle: FileHandle

    def packed(self) -> bytes:
        """Return the value of the xattr."""
        kind, data = self.handle
        size = _HEAD.size + len(data)
        return _HEAD.pack(_VERSION, _MAGIC, size, _NATIVE, kind, self.uuid) + data


def read_origin(value: bytes) -> Origin | None:
    """Return the origin in the value of an xattr; ``None`` if another program wrote something else.

    fuse-overlayfs writes a path to the same xattr.
    """
    if len(value) < _HEAD.size:
        return None
    version, magic, size, flags, kind, uuid = _HEAD.unpack_from(value)
    known = version == _VERSION and magic == _MAGIC and size == len(value)
    if not known or flags & ~_ANY_ENDIAN != _NATIVE:
        return None
    return Origin(uuid, FileHandle(kind, value[_HEAD.size :]))


class Filesystems:
    """The filesystems of the layers of a stack, numbered from that of the lowest layer.

    :param layers: the directories of the layers, topmost first.
    """

    def __init__(self, layers: Iterable[bytes]) -> None:
        self._roots: dict[int, bytes] = {}
        for root in reversed(list(layers)):
            self._roots.setdefault(os.stat(root).st_dev, root)
        self._places = {device: at for at, device in enumerate(self._roots)}
        self._uuids: dict[int, bytes] = {}

    def number(self, device: int, inode: int) -> int:
        """Return the inode number in the mount for one on disk."""
        return self._places.get(device, len(self._places)) << FILESYSTEM_BIT | inode

    def uuid(self, device: int) -> bytes:
        """Return the UUID of one of the filesystems."""
        found = self._uuids.get(device)
        if found is None:
            file = os.open(self._roots[device] + b"/", _LIST)
            try:
                found = self._uuids[device] = filesystem_uuid(file)
            finally:
                os.close(file)
        return found

    def number_of_origin(self, value: bytes) -> int | None:
        """Return the number of the lower file that an origin names, if it is on one of these."""
        origin = read_origin(value)
        inode = origin.handle.inode_number if origin else None
        if origin is None or inode is None:
            return None
        found = (device for device in self._roots if self.uuid(device) == origin.uuid)
        device = next(found, None)
        return None if device is None else self.number(device, inode)


class LayerNumbers:
    """The inode numbers on disk of the files in one directory of a stack.

    :param root: the directory.
    :param prefix: the prefix of overlayfs's marks; ``None`` for a layer, which has no origins.
    :param walks: whether symbolic links may have replaced directories of the layer.
    """

    def __init__(self, root: bytes, prefix: bytes | None, *, walks: bool) -> None:
        self.root = root
        self._prefix = prefix
        self._walks = walks

    def inside(self, path: bytes, filesystems: Filesystems) -> dict[bytes, int]:
        """Return the number of each name in a directory; nothing if it cannot be read."""
        try:
            directory = self._open(path)
        except OSError:
            return {}
        try:
            base = filesystems.number(os.fstat(directory).st_dev, 0)
            with os.scandir(directory) as entries:
                found = {os.fsencode(entry.name): base | entry.inode() for entry in entries}
            if self._prefix is not None:
                found.update(self._origins(found, directory, self._prefix, filesystems))
        except OSError:
            return {}
        finally:
            os.close(directory)
        return found

    def _open(self, path: bytes) -> int:
        if not path:
            return os.open(self.root + b"/", _LIST)
        return opath.open_below(self.root, path, no_symlinks=self._walks)

    @staticmethod
    def _origins(
        names: Iterable[bytes], directory: int, prefix: bytes, filesystems: Filesystems
    ) -> dict[bytes, int]:
        location = opath.proc_path(directory)
        if value_of(location, prefix + IMPURE) is None:
            return {}
        found = {}
        for name in names:
            value = value_of(location + b"/" + name, prefix + ORIGIN, follow_symlinks=False)
            number = None if value is None else filesystems.number_of_origin(value)
            if number is not None:
                found[name] = number
        return found

    def origin(self, path: bytes) -> Origin:
        """Return the origin for a copy of a file.

        :raises OSError: ``EOPNOTSUPP`` if the filesystem has no file handles.
        """
        with self._parent(path) as (directory, name):
            return Origin(filesystem_uuid(directory), handle_of(name, directory))

    def birth(self, path: bytes) -> int | None:
        """Return when a file was made, in nanoseconds."""
        with self._parent(path) as (directory, name):
            return birth_time(directory, name)

    @contextmanager
    def _parent(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """Open the directory of a path; yield its descriptor and the name in it."""
        above, _, name = path.rpartition(b"/")
        directory = self._open(above)
        try:
            yield directory, name
        finally:
            os.close(directory)

    def flags(self, path: bytes) -> int:
        """Return the flags of a file or directory."""
        file = self._open(path)
        try:
            return file_flags(file)
        finally:
            os.close(file)


class NumbersOnDisk(ABC):
    """The inode numbers of a merged tree, whose files are those of layers on disk."""

    def __init__(self) -> None:
        self._base = array("H")
        """The layer that gives each node its number: for a directory, the lowest with it."""
        self._numbers = array("Q")
        self._layers_on_disk: list[LayerNumbers] = []

    @abstractmethod
    def parent(self, node: Node) -> Node:
        """Return the directory of a node."""

    @abstractmethod
    def children(self, directory: Node) -> range:
        """Return the nodes in a directory."""

    @abstractmethod
    def name(self, node: Node) -> bytes:
        """Return a node's name."""

    @abstractmethod
    def path(self, node: Node) -> bytes:
        """Return the path of a node from the root."""

    def _number_by(self, layers: list[LayerNumbers]) -> None:
        """Set the layers, topmost first, whose files have the numbers."""
        self._numbers = array("Q", bytes(8 * len(self._base)))
        self._layers_on_disk = layers

    @cached_property
    def _filesystems(self) -> Filesystems:
        return Filesystems(layer.root for layer in self._layers_on_disk)

    def number(self, inode: Node) -> int:
        """Return an inode's number; those of its whole directory are read at once."""
        found = self._numbers[inode]
        if not found:
            self._read_numbers(self.parent(inode))
            found = self._numbers[inode]
        return found

    def _read_numbers(self, directory: Node) -> None:
        layers, base = self._layers_on_disk, self._base
        if directory == ROOT:
            status = os.stat(layers[base[ROOT]].root)
            self._numbers[ROOT] = self._filesystems.number(status.st_dev, status.st_ino)
        path, children = self.path(directory), self.children(directory)
        needed = {base[child] for child in children}
        found = {layer: layers[layer].inside(path, self._filesystems) for layer in needed}
        for child in children:
            number = found[base[child]].get(self.name(child))
            self._numbers[child] = number or UNKNOWN | child

    def origin(self, inode: Node) -> bytes:
        """Return the value of overlayfs's xattr *origin* for a copy of a file.

        :raises OSError: ``EOPNOTSUPP`` if the filesystem has no file handles.
        """
        return self._layers_on_disk[self._base[inode]].origin(self.path(inode)).packed()

    def birth(self, inode: Node) -> int | None:
        """Return when a file was made on disk, in nanoseconds; ``None`` if that is not known."""
        return self._layers_on_disk[self._base[inode]].birth(self.path(inode))

    def flags(self, inode: Node) -> int:
        """Return the flags of a file or directory.

        :raises OSError: ``ENOTTY`` if its filesystem has none.
        """
        return self._layers_on_disk[self._base[inode]].flags(self.path(inode))

    def number_of_origin(self, value: bytes) -> int | None:
        """Return the number of the file that an origin names; ``None`` if this tree lacks it."""
        return self._filesystems.number_of_origin(value)

    def number_on(self, device: int, inode: int) -> int:
        """Return the number of a file of an upper directory."""
        return self._filesystems.number(device, inode)


def value_of(path: bytes, name: bytes, *, follow_symlinks: bool = True) -> bytes | None:
    """Return the value of an xattr; ``None`` if there is none, or if it cannot be read."""
    try:
        return os.getxattr(path, name, follow_symlinks=follow_symlinks)
    except OSError:
        return None
