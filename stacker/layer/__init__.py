"""Store one layer as a directory or as an index of its tar, and read it back.

:func:`~stacker.layer.apply.apply` turns tar entries into a tree in which deletions are overlayfs
whiteouts and opaque marks.  It returns a :class:`~stacker.layer.record.LayerRecord`, which has the
facts that a stack needs and the tree alone does not have.  The layer's skeleton, its tar without
file contents, lists the entries without a walk of the tree and reproduces the tar bit for bit.
:func:`~stacker.layer.apply_index.apply_to_index` gives the same tree as inodes that refer to the
tar, for an EROFS index.  Layers are unpacked without their parents, so their order does not matter.
This package must not use images, digests or the store.
"""
