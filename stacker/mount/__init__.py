"""Mount the directories of a stack, and keep a table of the mounts.

`attach` makes a mount: a `MountRequest` (what the caller asks for) and a `StackedImage` (what to
mount) become a `Plan`, which a driver in `drivers/` executes.  `upper_directory` prepares the
directories that receive writes, and `target` checks and locks the mount point.

`table` stores a `MountRecord` per mount, and `state` compares it with the kernel's mounts.
`detach` unmounts, and clears what crashes and reboots left behind.

This package must not use an image or the store.
"""
