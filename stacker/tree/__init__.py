"""Read merged trees, and write to them, without a mount.

:class:`~stacker.tree.protocol.Tree` is the interface for every reader: a FUSE server, an archive
writer, a verifier, a viewer.  :func:`~stacker.tree.merged.merge` builds an immutable tree from the
directories of a stack, mostly from skeletons and without a system call for each file.
:func:`~stacker.tree.indexed.open_index` opens that of a merged index, and
:func:`~stacker.tree.extract.extract` writes it to a directory.
:class:`~stacker.tree.writable.WritableTree` puts an upper directory on top, in the format of the
kernel's overlayfs, so the kernel can mount the same directory before and after.  This package must
not use FUSE, a mount plan or the store.
"""
