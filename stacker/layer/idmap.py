"""Whose files an image's files become.

A closed choice, recorded per layer: the ids of the image as they are, or everything owned by
whoever unpacks (an unprivileged user owns nothing else; the image's ids stay in the skeleton).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class IdMap:
    """How ids in a layer become ids on disk.

    :param squash: everything is owned by the process that unpacks, and nothing is chowned.
    """

    squash: bool = False


IDENTITY = IdMap()
SQUASH = IdMap(squash=True)
