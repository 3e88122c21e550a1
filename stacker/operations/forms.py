"""Choose the form in which a store keeps new layers.

The value of an option comes in; a form goes out.  `auto` takes the EROFS form if this process can
mount it in the kernel.  This module changes nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stacker.layer.paths import FORMS
from stacker.linux import process

if TYPE_CHECKING:
    from stacker.layer.paths import Form

OPTIONS: Final = ("auto", *FORMS)
"""The values of an option that chooses a form."""
_FILESYSTEMS: Final = Path("/proc/filesystems")
_MODULES: Final = Path("/lib/modules")


def chosen_form(option: str | None) -> Form | None:
    """Return the form for new layers; ``None`` lets the layers of the store decide.

    :param option: one of `OPTIONS`, or ``None``.
    """
    if option is None:
        return None
    is_erofs = option == "erofs" or (option == "auto" and _can_mount_erofs())
    return "erofs" if is_erofs else "tree"


def _can_mount_erofs() -> bool:
    if not (process.has_capability(process.CAP_SYS_ADMIN) and process.in_initial_user_namespace()):
        return False
    if "erofs" in _FILESYSTEMS.read_text(encoding="ascii").split():
        return True
    return (_MODULES / os.uname().release / "kernel/fs/erofs").exists()
