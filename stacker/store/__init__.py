"""The store: images, indexes, layers, chains and blobs on disk, and the locks between processes.

An object gets its name, a digest, by rename(2) when it is complete and verified.  Its lock is a
lock on a file, or on a byte of a file that many layers share: one process unpacks a layer, and
readers share the lock.  The blobs are an OCI image layout.  This package does not pull,
unpack or mount; `stacker.jobs` and `stacker.operations` do.
"""
