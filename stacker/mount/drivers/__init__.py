"""The mount drivers, one module each: each exposes a merged tree at a mount point.

`overlay` uses the kernel's overlayfs, or a bind mount of a single layer.  `fuse` starts a
server of `stacker.fuse`, `fuse_overlayfs` the program of that name.  `copy` fills the target with a
copy.  `protocol` has the interface of a driver, and `choose` selects one.
"""
