"""Inodes in memory."""

from __future__ import annotations

import stat

from stacker.erofs.inodes import Inodes, xattr_set
from tests.support.erofs_trees import SECOND, meta


def test_inode_has_the_attributes_of_its_entry() -> None:
    inodes = Inodes()
    number = inodes.add(stat.S_IFREG, meta(0o4755, uid=1, gid=2), size=9, start=512, tar=3)
    assert inodes.mode[number] == stat.S_IFREG | 0o4755
    assert (inodes.uid[number], inodes.gid[number], inodes.size[number]) == (1, 2, 9)
    assert (inodes.start[number], inodes.tar[number]) == (512, 3)
    assert inodes.kind(number) == stat.S_IFREG


def test_negative_fractional_time_has_positive_nanoseconds() -> None:
    inodes = Inodes()
    number = inodes.add(stat.S_IFREG, meta(mtime=-3 * SECOND // 2))
    assert (inodes.seconds[number], inodes.nanoseconds[number]) == (-2, SECOND // 2)


def test_equal_xattrs_share_a_set() -> None:
    inodes = Inodes()
    pairs = xattr_set({b"user.b": b"2", b"user.a": b"1"})
    first = inodes.add(stat.S_IFREG, meta(), pairs)
    second = inodes.add_symlink(meta(), b"t", xattr_set({b"user.a": b"1", b"user.b": b"2"}))
    assert inodes.xattrs[first] == inodes.xattrs[second] != 0
    assert inodes.xattr_set(second) == ((b"user.a", b"1"), (b"user.b", b"2"))
    assert len(inodes.xattr_sets) == 2


def test_attributes_are_copied_without_the_content() -> None:
    inodes = Inodes()
    source = inodes.add_directory(meta(0o700, uid=5), ((b"user.a", b"1"),))
    target = inodes.add_directory(meta(0o755))
    inodes.directories[target][b"name"] = source
    inodes.copy_attributes(source, target)
    assert (inodes.mode[target] & 0o777, inodes.uid[target]) == (0o700, 5)
    assert inodes.xattr_set(target) == ((b"user.a", b"1"),)
    assert inodes.directories[target] == {b"name": source}


def test_new_attributes_keep_the_type() -> None:
    inodes = Inodes()
    number = inodes.add_directory(meta(0o755))
    inodes.set_meta(number, meta(0o1777, uid=3, mtime=7 * SECOND + 1), ((b"user.a", b"1"),))
    assert inodes.mode[number] == stat.S_IFDIR | 0o1777
    assert (inodes.seconds[number], inodes.nanoseconds[number]) == (7, 1)
    assert inodes.xattr_set(number)
