"""Serve a merged tree over /dev/fuse.

A mount driver, or `stacker-fuse`, describes a mount as a `ServedTree`: the layers, the upper
directory and the `FuseOptions`.  `daemon.start` merges the layers, mounts a connection (`connect`)
and forks workers.  Each worker reads requests from a channel of /dev/fuse and writes replies.

An adapter answers the requests.  `read_only` and `read_write` implement the kernel's own protocol
(`protocol`, `dispatch`, `replies`, `channel`); `libfuse` uses pyfuse3.  An adapter translates
requests and nothing else: `stacker.tree` decides what the tree contains and what a write does.

This package must not use a mount plan, the mount table or the store.
"""
