"""In which form layers are written, by what this process may do.

Out comes what `LayerForm` wants.  Privileges are looked at here, once, when an image is pulled;
every layer records what it was written in, and nobody asks again.
"""

from __future__ import annotations

from stacker.layer.idmap import IDENTITY, SQUASH, IdMap
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import process

_CAP_CHOWN = 0


def whiteout_format() -> WhiteoutFormat:
    """Return ``trusted.overlay.*`` for the machine's own root, ``user.overlay.*`` for others.

    Only CAP_SYS_ADMIN in the initial user namespace may write ``trusted.*`` (xattr(7)).
    """
    if process.in_initial_user_namespace() and process.has_capability(process.CAP_SYS_ADMIN):
        return WhiteoutFormat.TRUSTED
    return WhiteoutFormat.USER


def id_map() -> IdMap:
    """Return the owners as the image has them where there is more than one to give files to."""
    several = _are_several(process.uid_map()) and _are_several(process.gid_map())
    return IDENTITY if several and process.has_capability(_CAP_CHOWN) else SQUASH


def _are_several(ranges: tuple[process.IdRange, ...]) -> bool:
    return sum(ids.count for ids in ranges) > 1
