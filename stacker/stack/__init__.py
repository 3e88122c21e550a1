"""Stack unpacked layers.

:func:`~stacker.stack.build.build_stack` returns the list of directories that a mount stacks.  An
ordinary image needs nothing else.  Layers are unpacked without their parents, so some stacks need
repairs.  A layer may have to be applied again below a symbolic link.  Hard links may have targets
in lower layers, and an upper layer may hide directory attributes.  Layers past overlayfs's limit
become a single directory.  :func:`~stacker.stack.build_index.build_index` merges the EROFS indexes
of layers into one instead.  :mod:`~stacker.stack.flatten` writes a stack as a plain directory.  The
result equals applying all layers in turn to an empty directory.  This package must not use the
store, and mounts nothing.
"""
