"""Give names to images of the store, and remove names.

A store, an image and names come in; the names that moved from other images go out.  This module
does not remove images.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stacker.errors import NotFoundError
from stacker.image.location import parse_location
from stacker.image.reference import complete_name
from stacker.store.images import NAME, SOURCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stacker.image.digest import ImageID
    from stacker.store.images import StoredImage
    from stacker.store.store import Store

_PATHS = ("oci", "oci-archive", "docker-archive")


@dataclass(frozen=True, slots=True)
class Tagged:
    """An image that got names.

    :param moved: names that another image had before, each with that image.
    """

    image_id: ImageID
    moved: tuple[tuple[str, ImageID], ...] = ()


def tag_image(store: Store, image: str, names: Sequence[str]) -> Tagged:
    """Give an image more names.

    :param image: an image ID, a unique prefix of one, or a name.
    :param names: ``[HOST[:PORT]/]REPO[:TAG]``; the default tag is ``latest``.
    :raises UsageError: a name is malformed.
    :raises NotFoundError: the store lacks the image.
    """
    complete = tuple(map(complete_name, names))
    store.images.find(image)  # before a lock changes the store
    with store.images.write_lock():
        image_id, _ = store.images.find_name(image)
        return Tagged(image_id, tuple(store.images.tag(image_id, complete).items()))


def untag_names(store: Store, names: Iterable[str]) -> dict[str, ImageID]:
    """Remove names, but no image: one without names stays in the store.

    :returns: the removed names, each with its image.
    :raises NotFoundError: no image has one of the names; then stacker removes none.
    """
    texts = list(names)
    with store.images.read_lock():  # the write lock would create a missing store
        for text in texts:
            store.images.find_name(text)
    with store.images.write_lock():
        found = dict(_holder(store, text) for text in texts)
        store.images.untag(found)
    return found


def _holder(store: Store, text: str) -> tuple[str, ImageID]:
    image_id, name = store.images.find_name(text)
    if name is None:
        raise NotFoundError(
            f"no such name: {text!r}", hint="`stacker images` lists the names of all images"
        )
    return name, image_id


def distinct_names(
    names: Iterable[str], origin: str, others: Iterable[StoredImage]
) -> tuple[str, ...]:
    """Return the names for a pulled image.

    Tags of two layouts can be equal.  If an image from another layout or archive has the tag
    already, the new name gets the name of the layout as a prefix: ``app:latest`` for ``latest``.

    :param names: the names that the image has in its source.
    :param origin: the source as the user wrote it.
    :param others: the other images of the store.
    """
    layout = _layout(origin)
    taken = {
        entry.annotations.get(NAME)
        for image in others
        for entry in image.manifests
        if _layout(entry.annotations.get(SOURCE, "")) != layout
    }
    return tuple(
        f"{layout}:{name}" if layout and name in taken and not set(name) & {"/", ":"} else name
        for name in names
    )


def _layout(source: str) -> str:
    """Return the name of a layout's directory or of an archive, empty for another source."""
    if source.partition(":")[0] not in _PATHS:
        return ""
    name = os.path.basename(os.path.abspath(parse_location(source, _PATHS).path))
    return name if source.startswith("oci:") else name.partition(".")[0]
