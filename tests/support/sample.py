"""An image of three layers with the usual cases: a whiteout, a replaced file, hard links."""

from __future__ import annotations

from tests.support.tars import dir, file, hardlink, symlink, tar, whiteout  # noqa: A004 - the word for it

BASE = tar(
    dir(".", mode=0o755),
    dir("bin/"),
    file("bin/tool", b"#!/bin/sh\n", mode=0o4755),
    dir("etc/", mode=0o750, uid=1, gid=2),
    file("etc/gone", b"old"),
    file("etc/kept", b"kept", xattrs={"user.note": b"1"}),
    symlink("sh", "bin/tool"),
)
MIDDLE = tar(file("etc/kept", b"changed"), whiteout("etc/gone"), hardlink("tool", "bin/tool"))
TOP = tar(file("top", bytes(70_000)))
