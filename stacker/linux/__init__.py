"""Linux system calls and /proc files, one small function for each.

A failed call raises `OSError` with the errno and the path.  This package must not depend on layers,
stores or mounts of stacker; every other package may import it.  Modules load ctypes and xattr only
when a function needs them, so that importing this package stays cheap.
"""
