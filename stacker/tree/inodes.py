"""The inodes of a writable tree, those of the lower tree and those of the upper directory.

A merged tree and an upper directory in overlayfs's format come in; inode numbers of names and
descriptors go out.  A lower inode keeps its number when it is copied up, so that open files and
its other names refer to the copy.  This module must not change files.

A directory of the upper is read when it is first entered.  Lower directories are not read, since
the merged tree has them in memory.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from stacker.layer.whiteout_format import is_whiteout
from stacker.linux import opath
from stacker.tree.inode import Inode, Listing
from stacker.tree.numbers import IMPURE
from stacker.tree.protocol import ROOT
from stacker.tree.whiteout_dialects import UpperMarks, hidden_by, is_reserved

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stacker.tree.protocol import Contents, LowerTree, Node, Status
    from stacker.tree.whiteout_dialects import WhiteoutDialect

_HELD: Final = 256
_OPEN: Final = 128
_LIST: Final = os.O_RDONLY | os.O_DIRECTORY


class Inodes:
    """All inodes of a tree; new ones are numbered from ``lower.limit`` on, without reuse.

    :param dialect: how deletions are written in the upper directory.
    :param upper: a descriptor of the upper directory; this object closes it.
    """

    def __init__(self, lower: LowerTree, dialect: WhiteoutDialect, upper: int) -> None:
        self.lower = lower
        self.dialect = dialect
        self._marks = UpperMarks(dialect)
        # Xattrs of the root are ignored: overlayfs merges roots even if they are opaque.
        root = Inode(ROOT, stat.S_IFDIR, None if self._marks.is_opaque_by_name(upper) else ROOT)
        root.held = upper
        self._upper = {ROOT: root}
        self._next = self._limit = lower.limit
        self._keys: dict[tuple[int, int], Inode] = {}
        self._asked: dict[Node, int] = {}
        self._pins = opath.DescriptorCache(_HELD)
        self._files = opath.DescriptorCache(_OPEN)
        self.open_file = self._files.get  # the file of an inode, if it is open for writing
        self._lower_files: OrderedDict[Node, Contents] = OrderedDict()
        self._unlinked: dict[Node, int] = {}
        self._all_known = True  # whether every name of each lower inode is visible

    def close(self) -> None:
        """Close all descriptors."""
        for inode in self._upper.values():
            if inode.held >= 0:
                os.close(inode.held)
        self._pins.close()
        self._files.close()
        for contents in self._lower_files.values():
            contents.close()
        self._upper.clear()
        self._lower_files.clear()

    # Queries

    def upper_inode(self, node: Node) -> Inode | None:
        """Return an inode of the upper directory; ``None`` for one that is not copied up.

        :raises OSError: ``ESTALE`` if no inode has this number.
        """
        inode = self._upper.get(node)
        if inode is None and not 0 <= node < self._limit:
            raise OSError(errno.ESTALE, "no such inode")
        return inode

    def kind(self, node: Node) -> int:
        """Return an inode's file type, an ``S_IF*`` constant."""
        inode = self.upper_inode(node)
        return self.lower.kind(node) if inode is None else inode.kind

    def number(self, node: Node) -> int:
        """Return the inode number that programs see; a copied-up inode keeps that of the lower."""
        inode = self.upper_inode(node)
        if inode is None or node < self._limit:
            return self.lower.number(node)
        if not inode.shown:
            self.stat(inode)
        return inode.shown

    def stat(self, inode: Inode) -> os.stat_result:
        """Return the attributes of an inode on disk."""
        status = os.fstat(self.pin(inode))
        if not inode.shown:
            inode.shown = self.lower.number_on(status.st_dev, status.st_ino)
        return status

    def lookup(self, directory: Node, name: bytes) -> Node | None:
        """Return the inode of a name in a directory."""
        inode = self.upper_inode(directory)
        if inode is not None:
            return self.listing(inode).get(name)
        return self.lower.lookup(directory, name)

    def entries(self, directory: Node, offset: int = 0) -> Iterator[tuple[int, bytes, Node]]:
        """Yield offset, name and inode of each entry of a directory after an offset.

        :raises OSError: ``ENOTDIR``.
        """
        if self.kind(directory) != stat.S_IFDIR:
            raise OSError(errno.ENOTDIR, "not a directory")
        inode = self.upper_inode(directory)
        if inode is not None:
            yield from self.listing(inode).after(offset)
            return
        yield from self.lower.entries(directory, offset)

    def is_empty(self, directory: Node) -> bool:
        """Return whether a directory has no entries; whiteouts do not count."""
        return next(self.entries(directory), None) is None

    def parent(self, directory: Node) -> Node:
        """Return the parent of a directory; the root and a removed directory return themselves."""
        inode = self.upper_inode(directory)
        if inode is None:
            return self.lower.parent(directory)
        return next((parent for parent, _ in inode.names), directory)

    def lower_names(self, node: Node) -> list[tuple[Node, bytes]]:
        """Return the names of a lower inode that are still visible, with their directories."""
        return [place for place in self.lower.names(node) if self._is_shown(*place, node)]

    def lower_status(self, node: Node) -> Status:
        """Return the attributes of a lower inode: its links are the names that are still visible.

        The ctime is that of the lower tree, or the time when the inode lost a name.
        """
        status, changed = self.lower.status(node), self._unlinked.get(node)
        if changed is None and (status.nlink == 1 or self._all_known):
            return status
        return status._replace(
            nlink=len(self.lower_names(node)), ctime=status.ctime if changed is None else changed
        )

    def _is_shown(self, directory: Node, name: bytes, node: Node) -> bool:
        trail = [(directory, name, node)]
        while directory != ROOT:
            node = directory
            directory, name = self.lower.names(node)[0]
            trail.append((directory, name, node))
        return all(self.lookup(above, step) == found for above, step, found in reversed(trail))

    # Changes

    def add(self, kind: int, lower: Node | None = None, *, number: Node | None = None) -> Inode:
        """Add an inode of the upper directory; without ``number`` it gets a new one."""
        if number is None:
            number, self._next = self._next, self._next + 1
        inode = self._upper[number] = Inode(number, kind, lower)
        inode.is_copy = number < self._limit
        contents = self._lower_files.pop(number, None)
        if contents is not None:  # opened before the copy
            contents.close()
        return inode

    def link(self, directory: Inode, name: bytes, inode: Inode) -> None:
        """Set the inode of a name."""
        listing = self.listing(directory)
        before = listing.get(name)
        listing.put(name, inode.number)
        if before != inode.number:  # a copied-up inode keeps its number
            self._lose(before, directory, name)
        inode.names[directory.number, name] = None

    def unlink(self, directory: Inode, name: bytes) -> None:
        """Remove a name; an inode without names is kept while the kernel refers to it.

        A caller that removes the last name on disk calls `hold` first.
        """
        listing = self.listing(directory)
        before = listing.get(name)
        listing.remove(name)
        self._lose(before, directory, name)

    def _lose(self, node: Node | None, directory: Inode, name: bytes) -> None:
        if node is None:
            return
        inode = self._upper.get(node)
        if inode is None:
            self._unlinked[node] = time.time_ns()
        else:
            inode.names.pop((directory.number, name), None)
            self._drop_unused(inode)

    def hold(self, inode: Inode) -> None:
        """Keep a descriptor of an inode that is about to lose its last name."""
        if inode.held < 0 and len(inode.names) <= 1 and self._asked.get(inode.number):
            inode.held = os.dup(self.pin(inode))

    def remember(self, node: Node) -> None:
        """Count one more reference of the kernel to an inode."""
        self._asked[node] = self._asked.get(node, 0) + 1

    def forget(self, node: Node, count: int) -> None:
        """Subtract ``count`` references of the kernel to an inode."""
        left = self._asked.get(node, 0) - count
        if left > 0:
            self._asked[node] = left
            return
        self._asked.pop(node, None)
        inode = self._upper.get(node)
        if inode is not None:
            self._drop_unused(inode)

    def _drop_unused(self, inode: Inode) -> None:
        if inode.names or inode.number == ROOT or self._asked.get(inode.number):
            return
        del self._upper[inode.number]
        if inode.key is not None:
            self._keys.pop(inode.key, None)
        self._pins.drop(inode.number)
        self._files.drop(inode.number)
        if inode.held >= 0:
            os.close(inode.held)

    # Descriptors

    def pin(self, inode: Inode) -> int:
        """Return a descriptor of an inode, mostly O_PATH; many later calls may close it.

        :raises OSError: the kernel's error; ``ESTALE`` for an inode without name or descriptor.
        """
        trail: list[tuple[Node, bytes]] = []
        fd = self._pinned(inode)
        while fd < 0:
            found = next(iter(inode.names), None)
            if found is None:
                raise OSError(errno.ESTALE, "no such inode")
            trail.append((inode.number, found[1]))
            inode = self._upper[found[0]]
            fd = self._pinned(inode)
        for number, name in reversed(trail):
            fd = opath.pin(name, fd)
            self._pins.keep(number, fd)
        return fd

    def _pinned(self, inode: Inode) -> int:
        fd = self._files.get(inode.number)
        if fd is None:
            fd = self._pins.get(inode.number)
        return inode.held if fd is None else fd

    def file(self, node: Node) -> int:
        """Return a regular file of the upper directory, open for reading and writing.

        :raises OSError: ``EISDIR`` or ``EINVAL`` for any other file type.
        """
        fd = self.open_file(node)
        if fd is not None:
            return fd
        inode = self._regular(node)
        if inode is None:
            raise OSError(errno.EROFS, "the file is not copied up")
        return self.keep_open(node, opath.reopen(self.pin(inode), os.O_RDWR))

    def contents(self, node: Node) -> Contents | None:
        """Return the contents of a lower file; ``None`` for one of the upper directory.

        :raises OSError: as for `file`.
        """
        if node in self._files:
            return None
        found = self._lower_files.get(node)
        if found is not None:
            self._lower_files.move_to_end(node)
            return found
        if self._regular(node) is not None:
            return None
        self._lower_files[node] = found = self.lower.file(node)
        if len(self._lower_files) > _OPEN:
            self._lower_files.popitem(last=False)[1].close()
        return found

    def _regular(self, node: Node) -> Inode | None:
        inode, kind = self.upper_inode(node), self.kind(node)
        if kind != stat.S_IFREG:
            number = errno.EISDIR if kind == stat.S_IFDIR else errno.EINVAL
            raise OSError(number, "not a regular file")
        return inode

    def keep_open(self, node: Node, fd: int) -> int:
        """Take over the descriptor of a file, for `file` to return."""
        return self._files.keep(node, fd)

    # Directories of the upper

    def listing(self, inode: Inode) -> Listing:
        """Return the names in a directory of the upper.

        :raises OSError: ``ENOTDIR``, or the kernel's error.
        """
        if inode.listing is None:
            if inode.kind != stat.S_IFDIR:
                raise OSError(errno.ENOTDIR, "not a directory")
            listing = self.lower_listing(inode.lower)
            fd = opath.reopen(self.pin(inode), _LIST)
            try:
                self._read(inode, fd, listing)
            finally:
                os.close(fd)
            inode.listing = listing
        return inode.listing

    def lower_listing(self, directory: Node | None) -> Listing:
        """Return the names in a lower directory, for an upper one that is still empty."""
        return Listing() if directory is None else Listing(self.lower.entries(directory))

    def _read(self, directory: Inode, fd: int, listing: Listing) -> None:
        files = self._marks.has_file_whiteouts(fd)
        directory.impure = self._marks.has(IMPURE, fd)
        with os.scandir(fd) as found:
            entries = [(os.fsencode(each.name), each.stat(follow_symlinks=False)) for each in found]
        hidden = set[bytes]()
        if self.dialect.has_names:
            hidden.update(*(hidden_by(name) for name, _ in entries if is_reserved(name)))
            entries = [entry for entry in entries if not is_reserved(entry[0])]
            self._all_known = self._all_known and not hidden
        for name in hidden:
            listing.remove(name)
        for name, status in entries:
            self._all_known = False
            if is_whiteout(status) or (files and self._marks.is_file_whiteout(name, status, fd)):
                listing.remove(name)
                listing.whiteouts.add(name)
                continue
            inode = self._found(directory, name, status, fd, opaque=name in hidden)
            inode.names[directory.number, name] = None
            listing.put(name, inode.number)

    def _found(
        self, directory: Inode, name: bytes, status: os.stat_result, fd: int, *, opaque: bool
    ) -> Inode:
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            lower = self._merged_with(directory, name, fd, opaque=opaque)
            return self.add(kind, lower, number=lower)
        if status.st_size and not status.st_blocks and kind == stat.S_IFREG:
            held = opath.pin(name, fd)
            try:
                self._refuse(b"metacopy", name, held)
            finally:
                os.close(held)
        key = status.st_dev, status.st_ino
        known = self._keys.get(key)
        if known is None:
            known = self.add(kind)
            origin = self._marks.origin(name, fd) if directory.impure else None
            shown = None if origin is None else self.lower.number_of_origin(origin)
            known.is_copy = shown is not None
            known.shown = shown or self.lower.number_on(*key)
            if status.st_nlink > 1:  # its other names may be read later
                self._keys[key], known.key = known, key
        return known

    def _merged_with(self, directory: Inode, name: bytes, fd: int, *, opaque: bool) -> Node | None:
        """Return the lower directory that merges with one of the upper."""
        held = opath.pin(name, fd)
        try:
            self._refuse(b"redirect", name, held)
            lower = self.lower_directory(directory, name)
            return None if lower is None or opaque or self._marks.is_opaque(held) else lower
        finally:
            os.close(held)

    def _refuse(self, mark: bytes, name: bytes, held: int) -> None:
        """Refuse a mark of an overlayfs feature that is off, as the kernel does."""
        if self._marks.has(mark, held):
            raise OSError(errno.EPERM, f"has the mark {os.fsdecode(mark)}", os.fsdecode(name))

    def lower_name(self, directory: Inode, name: bytes) -> Node | None:
        """Return the lower inode that a name would have without the upper directory."""
        return None if directory.lower is None else self.lower.lookup(directory.lower, name)

    def lower_directory(self, directory: Inode, name: bytes) -> Node | None:
        """Return the lower directory that a name would have without the upper directory."""
        found = self.lower_name(directory, name)
        return found if found is not None and self.lower.kind(found) == stat.S_IFDIR else None
