"""An image of two layers, and the forms in which a store has them."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support import images
from tests.support.command import Stacker
from tests.support.tars import dir as folder
from tests.support.tars import file, hardlink, opaque, symlink, tar, whiteout

LOWER = tar(
    folder("etc/", mode=0o750, uid=3, gid=4),
    file("etc/hosts", b"127.0.0.1 localhost\n" * 800, mode=0o640, xattrs={"user.note": b"yes"}),
    file("etc/passwd", b"root:x:0:0::/:/bin/sh\n"),
    hardlink("etc/link", "etc/passwd"),
    symlink("lib", "usr/lib"),
    folder("usr/"),
    folder("usr/lib/"),
    file("usr/lib/gone", b"g"),
    file("var/old", b"o"),
)
UPPER = tar(
    whiteout("usr/lib/gone"),
    file("lib/x", b"x" * 9999, xattrs={"trusted.overlay.note": b"own"}),
    hardlink("etc/second", "etc/passwd"),
    opaque("var"),
    file("var/new", b"n"),
)


def layer_directories(stacker: Stacker, app: images.Layout) -> list[Path]:
    """Return the directories of the layers in the store, base first."""
    root = stacker.store / "layers" / "sha256"
    return [root / each.partition(":")[2] for each in app.image.diff_ids]


def forms_of(stacker: Stacker, app: images.Layout) -> list[list[str]]:
    """Return the forms of each layer, base first."""
    items = json.loads(stacker("layers", "--json", app.image.config).out)["items"]
    return [item["forms"] for item in items]
