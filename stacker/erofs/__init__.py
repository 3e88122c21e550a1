"""EROFS images that hold only metadata, and refer to tar files for the contents.

:mod:`~stacker.erofs.inodes` holds a tree in memory, :mod:`~stacker.erofs.layout` gives each inode
its place, :mod:`~stacker.erofs.write` writes the image, and :mod:`~stacker.erofs.read` reads one.
The format is that of the kernel (``Documentation/filesystems/erofs.rst``,
``fs/erofs/erofs_fs.h``).  This package must not parse tars or mount anything.
"""
