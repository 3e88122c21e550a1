"""Choose the form in which a store keeps new layers.

A store and a requested form come in; a form goes out, with the reason.  `auto` takes the
EROFS form where a mount of it works: in the kernel, or by FUSE.  This module changes nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stacker.linux import process

if TYPE_CHECKING:
    from stacker.layer.paths import Form
    from stacker.store.store import Store

_FILESYSTEMS: Final = Path("/proc/filesystems")


def chosen_form(store: Store, wanted: str | None) -> Form | None:
    """Return the form for new layers; ``None`` lets the layers of the store decide.

    :param wanted: ``tree``, ``erofs``, ``auto`` or nothing.
    """
    if wanted == "auto":
        return automatic_form(store)[0]
    if wanted == "erofs":
        return "erofs"
    return None if wanted is None else "tree"


def automatic_form(store: Store) -> tuple[Form, str]:
    """Return the form that `auto` takes, and why."""
    del store
    if not process.has_capability(process.CAP_SYS_ADMIN) or not process.in_initial_user_namespace():
        return "tree", "this process may not mount EROFS"
    kinds = _FILESYSTEMS.read_text(encoding="ascii").split()
    if "erofs" in kinds:
        return "erofs", "this kernel mounts EROFS"
    if Path("/lib/modules", os.uname().release, "kernel/fs/erofs").exists():
        return "erofs", "this kernel has EROFS as a module"
    return "tree", "this kernel has no EROFS"
