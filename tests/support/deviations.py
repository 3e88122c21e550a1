"""The table of deviations from POSIX, each with the document that states it.

A driver with a deviation must show it; a driver without it must behave like a plain directory.
Kernel document: Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

DOES_NOT_WRITE: Final = False


class Deviation(Enum):
    """A deviation and its source."""

    RENAME_OF_LOWER_DIRECTORY = (
        "rename of a directory that any layer has fails with EXDEV",
        'overlayfs.rst, "renaming directories" and "redirect_dir"',
    )
    LINKS_BROKEN_BY_COPY_UP = (
        "a change to one name of a lower file with several is not seen by the others",
        'overlayfs.rst, "index"',
    )
    LOWER_MAPPING_IS_STALE = (
        "a shared mapping made of a lower file does not show what is written later",
        'overlayfs.rst, "Non-standard behavior" b)',
    )
    MERGED_DIRECTORY_HAS_ONE_LINK = (
        "st_nlink of a merged directory is 1",
        "fs/overlayfs/inode.c, ovl_getattr: one link keeps find(1) from counting subdirectories",
    )
    COPY_UP_IS_SEEN_IN_CTIME = (
        "copying a file up, which opening it for writing does, gives its directory a new ctime",
        'overlayfs.rst, "Non-directories": owner, mode, mtime and so on are kept',
    )
    DIRECTORIES_HAVE_ONE_LINK = (
        "st_nlink of every directory is 1",
        "docs/rules.md, Mounting",
    )
    NO_ACL_ON_LOWER_FILES = (
        "an ACL cannot be set (EOPNOTSUPP) until another change copies the file up",
        "fs/overlayfs/inode.c, ovl_set_acl: asks the lower inode, and EROFS sets no ACLs",
    )
    NO_DEVICE_ZERO = (
        "a character device 0:0 cannot be made (EPERM): it is a whiteout",
        'overlayfs.rst, "whiteouts and opaque directories"; fs/overlayfs/dir.c, ovl_mknod',
    )


FUSE: Final = frozenset(
    {
        Deviation.RENAME_OF_LOWER_DIRECTORY,
        Deviation.DIRECTORIES_HAVE_ONE_LINK,
        Deviation.NO_DEVICE_ZERO,
    }
)
OVERLAYFS_ON_EROFS: Final = frozenset(Deviation) - {Deviation.DIRECTORIES_HAVE_ONE_LINK}
OVERLAYFS: Final = OVERLAYFS_ON_EROFS - {Deviation.NO_ACL_ON_LOWER_FILES}
