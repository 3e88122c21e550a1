"""The store: images, indexes, layers, chains and blobs on disk, and the locks between processes.

Everything is named by a digest and gets its name by rename(2) when it is complete and verified, so
that existence means validity.  Locks are flock(2) on a file next to the object: one process unpacks
a layer, and readers share it.  The store is also an OCI image layout.  This package does not pull,
unpack or mount; `stacker.jobs` and `stacker.operations` do.
"""
