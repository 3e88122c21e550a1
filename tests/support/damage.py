"""Layers with all kinds of entries, and their directories in a store."""

from __future__ import annotations

from pathlib import Path

from tests.support import images
from tests.support.command import Stacker
from tests.support.tars import dir as folder
from tests.support.tars import file, hardlink, opaque, symlink, tar, whiteout

LOWER = tar(
    folder("etc/"),
    file("etc/hosts", b"127.0.0.1 localhost\n" * 8, mode=0o644, xattrs={"user.note": b"yes"}),
    file("etc/passwd", b"root:x:0:0::/:/bin/sh\n"),
    hardlink("etc/link", "etc/passwd"),
    symlink("lib", "usr/lib"),
    folder("usr/"),
    folder("usr/lib/"),
)


UPPER = tar(
    whiteout("etc/hosts"),
    folder("usr/"),
    opaque("usr"),
    folder("usr/lib/"),
    file("usr/lib/x", b"x" * 999),
)


UNUSUAL = tar(
    file("a", b"first"), file("a", b"second"), folder("d/"), symlink("s", "d"), file("s/x", b"in d")
)


def tree(stacker: Stacker, app: images.Layout, number: int) -> Path:
    digest = app.image.diff_ids[number].partition(":")[2]
    return stacker.store / "layers" / "sha256" / digest / "diff"
