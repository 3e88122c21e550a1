"""The values that describe an image of a store.

A store and the ID of an image come in; an `Image` goes out.  This module changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, NotFoundError

if TYPE_CHECKING:
    from stacker.image.config import Execution, History
    from stacker.image.digest import DiffID, ImageID
    from stacker.image.platform import Platform
    from stacker.store.images import StoredImage
    from stacker.store.store import Store as StoredImages


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of an image.

    :param diff_id: the digest of its uncompressed tar.
    :param size: the bytes of its files; 0 if the store lacks the layer.
    :param entries: the entries of its tar; 0 if the store lacks the layer.
    :param present: whether the store has the layer.
    """

    diff_id: DiffID
    size: int
    entries: int
    present: bool = True


@dataclass(frozen=True, slots=True)
class Image:
    """An image of a store, as it was when a method returned it.

    :param id: the digest of its config, which names it in every store.
    :param names: its names in the store.
    :param sources: the sources that it was pulled from.
    :param platform: the platform that it is built for.
    :param config: how to start a process from it: `entrypoint`, `cmd`, `env`, `user`, `labels`, …
    :param layers: its layers, base first.
    :param history: its build steps, oldest first.
    :param created: when it was built, RFC 3339; ``None`` if its config does not say so.
    :param author: who built it, may be empty.
    """

    id: ImageID
    names: tuple[str, ...]
    sources: tuple[str, ...]
    platform: Platform
    config: Execution
    layers: tuple[Layer, ...]
    history: tuple[History, ...] = ()
    created: str | None = None
    author: str = ""

    @property
    def size(self) -> int:
        """The bytes of the files in all layers."""
        return sum(layer.size for layer in self.layers)


def describe_image(store: StoredImages, stored: StoredImage) -> Image:
    """Return the values of an image that the store lists.

    :raises NotFoundError: another process has removed the image.
    :raises IntegrityError: its config is damaged.
    """
    config = store.images.config(stored.id)
    return Image(
        id=stored.id,
        names=stored.names,
        sources=stored.sources,
        platform=config.platform,
        config=config.execution,
        layers=tuple(_layer(store, diff_id) for diff_id in config.diff_ids),
        history=config.history,
        created=config.created,
        author=config.author,
    )


def _layer(store: StoredImages, diff_id: DiffID) -> Layer:
    try:
        record = store.layers.record(diff_id)
    except (NotFoundError, IntegrityError):
        return Layer(diff_id, 0, 0, present=False)
    return Layer(diff_id, record.file_bytes, record.entries)
