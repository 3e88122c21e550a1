"""stacker as a snapshotter and a differ of containerd, a proxy plugin over one Unix socket.

`snapshots` and `differ` are the two services as plain Python: keys, labels and descriptors come in;
mounts and layers of the store go out.  `metadata` keeps the snapshots in an SQLite database, and
`mounts` knows their directories.  `server` translates between the services and gRPC; another
library for gRPC would replace that module alone.  `generated` has the messages of containerd's API.
`workers` unpacks and removes in other processes, so that the server answers meanwhile.
"""
