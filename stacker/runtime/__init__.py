"""Describe the process of a container, and start it with or without an OCI runtime.

An image config, the changes of a caller and an open root directory come in; values and bytes go
out.  The steps are one function each, and `stacker bundle` and `stacker run` share them:

    overrides = Overrides(command=("sh",), user="app")          what the caller changes
    with Root.open(directory) as root:                          the mounted root filesystem
        root.require_mount_points()                             /proc, /dev and /sys are directories
        process = make_process(config.execution, overrides, root)
    settings = Settings(hostname="web", network="none", mounts=(bind(...), tmpfs(...)))
    raw = runtime_config(config, process, settings, read_profile())

`root` reads the few files of a root filesystem that the image's author controls.  `user` finds the
IDs of USER in them.  `process` makes a `Process`: everything that execve(2) and the calls before it
need, so a caller can also start the process itself, without an OCI runtime.  `spec` adds
namespaces, mounts and annotations.  `seccomp` reads the profile of the containers tools.

The root filesystem must be writable for the runtime, which creates missing mount points in it; to
refuse writes to the process, set `Settings.read_only` (root.readonly in ``config.json``).

`oci` starts a bundle by runc or crun.  `chroot` starts a process by itself: `enter` is what the new
process does, and `rootfs` makes its mounts.  `streams` connects its terminal to that of the caller.
This package must not use layers or the store.
"""
