"""Stack unpacked layers.

:func:`~stacker.stack.build.build_stack` returns the list of directories that a mount stacks.  An
ordinary image needs nothing else.  Layers are unpacked without their parents, so some stacks need
repairs: a layer applied again below a symbolic link, hard links into lower layers, directory
attributes that an upper layer hides, and a single directory in place of the layers past
overlayfs's limit.  :mod:`~stacker.stack.flatten` writes a stack as a plain directory.  The result
equals applying all layers in turn to an empty directory.  This package must not use the store,
and mounts nothing.
"""
