"""Copy inodes of the lower tree up to the upper directory (overlayfs.rst, *Non-directories*).

An inode number comes in; an inode of the upper directory goes out, with the owner, mode, times,
xattrs, holes and hard links of the lower one.  A copy is made in the work directory and renamed,
so it is never visible in part, and the directories above it keep their times.  This module must
not change the content.

All names of a lower inode become hard links to the one copy.  So they stay names of one file after
the next mount, by this program or by the kernel.  The kernel's overlayfs itself breaks such links,
or with index=on keeps them by an index that fits the same layers only.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from stacker.linux import opath

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stacker.tree.inode import Inode
    from stacker.tree.inodes import Inodes
    from stacker.tree.protocol import Node
    from stacker.tree.workdir import WorkDirectory


class CopyUp:
    """Copies inodes up.

    :param durable: whether to flush a copy to disk before it gets its name.
    """

    def __init__(self, inodes: Inodes, work: WorkDirectory, *, durable: bool) -> None:
        self._inodes = inodes
        self._work = work
        self._durable = durable

    def ensure(self, node: Node, *, length: int | None = None) -> Inode:
        """Return an inode of the upper directory, after copying it up if needed.

        :param length: the number of bytes of a file to copy; ``None`` for all.
        :raises OSError: the kernel's error; the tree is unchanged then.
        """
        known = self._inodes.upper_inode(node)
        if known is not None:
            return known
        if self._inodes.kind(node) == stat.S_IFDIR:
            return self._directory(node)
        names = self._inodes.lower_names(node)
        targets = [(self._directory(directory), name) for directory, name in names]
        name, held = self._copy(node, length)
        try:
            return self._publish(node, name, held, targets)
        finally:
            os.close(held)

    def _directory(self, node: Node) -> Inode:
        """Copy a directory up after its parents; a loop, since there may be thousands."""
        missing = []
        while (known := self._inodes.upper_inode(node)) is None:
            missing.append(node)
            node = self._inodes.lower.parent(node)
        for inner in reversed(missing):
            known = self._one_directory(inner, known)
        return known

    def _one_directory(self, node: Node, above: Inode) -> Inode:
        lower = self._inodes.lower
        _, path = lower.names(node)[0]
        if self._inodes.lookup(above.number, path) != node:
            raise FileNotFoundError(errno.ENOENT, "directory was removed")
        name, held = self._work.make(lambda name, within: os.mkdir(name, 0o700, dir_fd=within))
        try:
            self._describe(node, held)
            with self._unchanged(above) as directory:
                self._work.move_to(name, path, directory, held=held)
        finally:
            os.close(held)
        inode = self._inodes.add(stat.S_IFDIR, node, number=node)
        inode.listing = self._inodes.lower_listing(node)
        self._inodes.link(above, path, inode)
        return inode

    def _copy(self, node: Node, length: int | None) -> tuple[bytes, int]:
        """Make the copy in the work directory; return its name there and a descriptor."""
        lower, work = self._inodes.lower, self._work
        mode, device = lower.mode(node), lower.status(node).device
        if stat.S_ISREG(mode):
            return self._copy_file(node, length)
        if stat.S_ISLNK(mode):
            target = lower.readlink(node)
            name, held = work.make(lambda name, at: os.symlink(target, name, dir_fd=at))
        else:
            kind = stat.S_IFMT(mode) | 0o600
            name, held = work.make(lambda name, at: os.mknod(name, kind, device, dir_fd=at))
        try:
            self._describe(node, held)
        except BaseException:
            os.close(held)
            work.discard(name)
            raise
        return name, held

    def _copy_file(self, node: Node, length: int | None) -> tuple[bytes, int]:
        size = self._inodes.lower.status(node).size
        name, file = self._work.file()
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
            self._work.discard(name)
            raise
        return name, file

    def _fill(self, node: Node, file: int, size: int, *, whole: bool) -> None:
        source = self._inodes.lower.file(node)
        try:
            if whole:
                source.copy_to(file)
            else:
                source.copy_start(file, size)
        finally:
            source.close()

    def _describe(self, node: Node, held: int) -> None:
        """Set the lower inode's attributes; owner first, since chown clears others."""
        lower, path = self._inodes.lower, opath.proc_path(held)
        mode, _, uid, gid, _, _, _, _, mtime, _ = lower.status(node)
        status = os.fstat(held)
        if (status.st_uid, status.st_gid) != (uid, gid):
            os.chown(path, uid, gid)
        for name, value in lower.xattrs(node).items():
            os.setxattr(path, self._inodes.dialect.escape(name), value)
        if not stat.S_ISDIR(mode):
            with suppress(OSError):  # the lower filesystem has no file handles
                self._work.mark_origin(held, lower.origin(node))
        if not stat.S_ISLNK(mode):
            os.chmod(path, stat.S_IMODE(mode))
        os.utime(path, ns=(mtime, mtime))

    def _publish(
        self, node: Node, name: bytes, held: int, targets: list[tuple[Inode, bytes]]
    ) -> Inode:
        """Give a copy all its names; keep a copy without names open for its readers."""
        inodes, work = self._inodes, self._work
        if not targets:
            work.discard(name)
            inode = inodes.add(inodes.kind(node), number=node)
            inode.held = os.dup(held)
            return inode
        for above, _ in targets:
            self.mark_impure(above)
        try:
            for above, path in targets[1:]:
                with self._unchanged(above) as directory:
                    os.link(
                        *(name, path),
                        src_dir_fd=work.directory,
                        dst_dir_fd=directory,
                        follow_symlinks=False,
                    )
            above, path = targets[0]
            with self._unchanged(above) as directory:
                work.move_to(name, path, directory)
        except BaseException:
            self._unlink(targets[1:])
            work.discard(name)
            raise
        inode = inodes.add(inodes.kind(node), number=node)
        for above, path in targets:
            inodes.link(above, path, inode)
        return inode

    def mark_impure(self, directory: Inode) -> None:
        """Mark a directory that gets a copied-up file, as overlayfs does."""
        if not directory.impure:
            self._work.mark_impure(self._inodes.pin(directory))
            directory.impure = True

    def _unlink(self, targets: list[tuple[Inode, bytes]]) -> None:
        """Remove names from the upper directory again, which exposes the lower ones."""
        for above, path in targets:
            with self._unchanged(above) as directory:
                try:
                    os.unlink(path, dir_fd=directory)
                except FileNotFoundError:
                    return

    @contextmanager
    def _unchanged(self, directory: Inode) -> Iterator[int]:
        """Yield a descriptor of a directory that is writable; restore its mode and times after."""
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
