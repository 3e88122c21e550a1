"""Copying up: an inode of the lower tree gets a counterpart in the upper directory.

It has the lower one's owner, mode, times, xattrs, holes and hard links; it is made in the work
directory and renamed to its place, so that there is never half of it; and the directories it goes
to keep their times, since nothing has changed in them for whoever looks (overlayfs.rst,
*Non-directories*).

All names that the tree shows of a lower inode become hard links to the one copy.  So they stay
names of one file, now and after the next mount, by this program or by the kernel.  The kernel's
overlayfs itself leaves the other names behind, or, with index=on, keeps them together by an index
that is only good for the same layers.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stacker.linux import opath
from stacker.linux.filesystem import copy_range, reflink

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stacker.tree.inode import Inode
    from stacker.tree.inodes import Inodes
    from stacker.tree.protocol import Node
    from stacker.tree.workdir import Staging


class CopyUp:
    """Copies inodes up.

    :param durable: whether a copy must be on the disk before it gets its name.
    """

    def __init__(self, inodes: Inodes, staging: Staging, *, durable: bool) -> None:
        self._inodes = inodes
        self._staging = staging
        self._durable = durable

    def raised(self, node: Node, *, length: int | None = None) -> Inode:
        """Give an inode of the upper directory, copying it up if need be.

        :param length: bytes of a file that are wanted; all without it.
        :raises OSError: as the kernel says; then the tree shows what it did before.
        """
        known = self._inodes.raised(node)
        if known is not None:
            return known
        if self._inodes.kind(node) == stat.S_IFDIR:
            return self._directory(node)
        names = self._inodes.lower_names(node)
        places = [
            (self._directory(self._inodes.lower.parent(name)), self._inodes.lower.name(name))
            for name in names
        ]
        name, held = self._copied(node, length)
        try:
            return self._settled(node, name, held, places)
        finally:
            os.close(held)

    def _directory(self, node: Node) -> Inode:
        """Copy a directory up, and those above it first; it may be thousands deep."""
        missing = []
        while (known := self._inodes.raised(node)) is None:
            missing.append(node)
            node = self._inodes.lower.parent(node)
        for inner in reversed(missing):
            known = self._one_directory(inner, known)
        return known

    def _one_directory(self, node: Node, above: Inode) -> Inode:
        lower = self._inodes.lower
        path = lower.name(node)
        if self._inodes.lookup(above.number, path) != node:
            raise FileNotFoundError(errno.ENOENT, "the directory is gone")
        name, held = self._staging.made(lambda name, within: os.mkdir(name, 0o700, dir_fd=within))
        try:
            self._describe(node, held)
            with self._unchanged(above) as directory:
                self._staging.place(name, path, directory, held=held)
        finally:
            os.close(held)
        inode = self._inodes.add(stat.S_IFDIR, node, number=node)
        inode.listing = self._inodes.lower_listing(node)
        self._inodes.link(above, path, inode)
        return inode

    def _copied(self, node: Node, length: int | None) -> tuple[bytes, int]:
        """Make the copy in the work directory; give its name there and hold it."""
        lower, staging = self._inodes.lower, self._staging
        mode, device = lower.mode(node), lower.status(node).device
        if stat.S_ISREG(mode):
            return self._copied_file(node, length)
        if stat.S_ISLNK(mode):
            target = lower.readlink(node)
            name, held = staging.made(lambda name, at: os.symlink(target, name, dir_fd=at))
        else:
            kind = stat.S_IFMT(mode) | 0o600
            name, held = staging.made(lambda name, at: os.mknod(name, kind, device, dir_fd=at))
        try:
            self._describe(node, held)
        except BaseException:
            os.close(held)
            staging.discard(name)
            raise
        return name, held

    def _copied_file(self, node: Node, length: int | None) -> tuple[bytes, int]:
        size = self._inodes.lower.status(node).size
        name, file = self._staging.file()
        try:
            if length is None or length >= size:
                self._fill(node, file, size, whole=True)
            elif length:
                self._fill(node, file, length, whole=False)
            self._describe(node, file)
            if self._durable:
                os.fsync(file)
        except BaseException:
            os.close(file)
            self._staging.discard(name)
            raise
        return name, file

    def _fill(self, node: Node, file: int, size: int, *, whole: bool) -> None:
        source = self._inodes.lower.open(node)
        try:
            if not (whole and reflink(source, file)):
                copy_range(source, file, size)
        finally:
            os.close(source)

    def _describe(self, node: Node, held: int) -> None:
        """Give a copy what the lower inode has; owner first, since that clears the rest."""
        lower, path = self._inodes.lower, opath.proc_path(held)
        mode, _, uid, gid, _, _, _, _, mtime, _ = lower.status(node)
        status = os.fstat(held)
        if (status.st_uid, status.st_gid) != (uid, gid):
            os.chown(path, uid, gid)
        for name, value in lower.xattrs(node).items():
            os.setxattr(path, self._inodes.dialect.escape(name), value)
        if not stat.S_ISLNK(mode):
            os.chmod(path, stat.S_IMODE(mode))
        os.utime(path, ns=(mtime, mtime))

    def _settled(
        self, node: Node, name: bytes, held: int, places: list[tuple[Inode, bytes]]
    ) -> Inode:
        """Give a copy all its names; without any it stays as long as somebody has it open."""
        inodes, staging = self._inodes, self._staging
        if not places:
            staging.discard(name)
            inode = inodes.add(inodes.kind(node), number=node)
            inode.held = os.dup(held)
            return inode
        try:
            for above, path in places[1:]:
                with self._unchanged(above) as directory:
                    os.link(
                        *(name, path),
                        src_dir_fd=staging.directory,
                        dst_dir_fd=directory,
                        follow_symlinks=False,
                    )
            above, path = places[0]
            with self._unchanged(above) as directory:
                staging.place(name, path, directory)
        except BaseException:
            self._unlink(places[1:])
            staging.discard(name)
            raise
        inode = inodes.add(inodes.kind(node), number=node)
        for above, path in places:
            inodes.link(above, path, inode)
        return inode

    def _unlink(self, places: list[tuple[Inode, bytes]]) -> None:
        """Take back names that were given; the lower ones show again."""
        for above, path in places:
            with self._unchanged(above) as directory:
                try:
                    os.unlink(path, dir_fd=directory)
                except FileNotFoundError:
                    return

    @contextmanager
    def _unchanged(self, directory: Inode) -> Iterator[int]:
        """Let a directory take a name, and keep its times; ours to write whatever its mode."""
        held = os.dup(self._inodes.pin(directory))
        try:
            status = os.fstat(held)
            locked = 0 != os.geteuid() == status.st_uid and status.st_mode & 0o300 != 0o300
            if locked:
                os.chmod(opath.proc_path(held), stat.S_IMODE(status.st_mode) | 0o300)
            try:
                yield held
            finally:
                if locked:
                    os.chmod(opath.proc_path(held), stat.S_IMODE(status.st_mode))
                os.utime(opath.proc_path(held), ns=(status.st_atime_ns, status.st_mtime_ns))
        finally:
            os.close(held)
