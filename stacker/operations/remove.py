"""Remove an image from the store, with the parts that no other image uses.

A store and an image ID come in; the removed `ImageParts` go out, or a `LockedError` if the image is
in use.  Locks are taken before the mount table is read: a mount in progress holds a lock, and a
finished mount is in the table.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, LockedError, NotFoundError
from stacker.mount.table import Table
from stacker.operations.stack import chain_id_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from stacker.image.digest import ChainID, DiffID, Digest, ImageID
    from stacker.store.images import StoredImage
    from stacker.store.store import Store


@dataclass(frozen=True, slots=True)
class ImageParts:
    """The parts of images in the store, by digest."""

    layers: frozenset[DiffID]
    chains: frozenset[ChainID]
    blobs: frozenset[Digest]

    def without(self, other: ImageParts) -> ImageParts:
        """Return the parts that are not in `other`."""
        return ImageParts(
            self.layers - other.layers, self.chains - other.chains, self.blobs - other.blobs
        )


def remove_image(store: Store, image_id: ImageID) -> ImageParts:
    """Remove an image with all its names.

    :returns: the parts that were removed because no other image uses them.
    :raises NotFoundError: the store has no such image.
    :raises LockedError: the image is mounted, or another process mounts or unpacks it.
    """
    store.partials.sweep()
    with store.staging.trash() as discard, store.images.write_lock():
        images = {each.id: each for each in store.images.all()}
        image = images.pop(image_id, None)
        if image is None:
            raise NotFoundError(f"no such image: {image_id}")
        unused = parts_of(store, [image]).without(parts_of(store, images.values()))
        with ExitStack() as held:
            held.enter_context(store.images.removing(image_id))
            layers = held.enter_context(store.layers.removing(unused.layers))
            _refuse_mounted(store, image_id, unused)
            store.images.remove(image_id)
            discard([*layers, *_existing(store, unused)])
    return unused


def parts_of(store: Store, images: Iterable[StoredImage]) -> ImageParts:
    """Return the parts that images refer to, whether the store has them or not.

    The layers of an image with a damaged config are unknown, and not among them.
    """
    layers: set[DiffID] = set()
    chains: set[ChainID] = set()
    blobs: set[Digest] = set()
    for image in images:
        with suppress(IntegrityError, NotFoundError):
            config = store.images.config(image.id)
            layers.update(config.diff_ids)
            chains.add(chain_id_of(config))
        for descriptor in image.manifests:
            manifest = store.images.manifest(descriptor)
            blobs |= {descriptor.digest, manifest.config.digest}
            blobs |= {layer.digest for layer in manifest.layers}
    return ImageParts(frozenset(layers), frozenset(chains), frozenset(blobs))


def _existing(store: Store, parts: ImageParts) -> list[Path]:
    paths = [*map(store.chains.path, parts.chains), *map(store.blobs.path, parts.blobs)]
    return [path for path in paths if path.exists()]


def _refuse_mounted(store: Store, image_id: ImageID, unused: ImageParts) -> None:
    layers, chains = {str(d) for d in unused.layers}, {str(c) for c in unused.chains}
    for entry in Table(store.mounts).entries():
        record = entry.record
        if entry.state == "stale":
            continue
        if record.chain_id in chains or not layers.isdisjoint(record.diff_ids):
            raise LockedError(
                f"image in use: {image_id}: it is mounted at {entry.record.target}",
                hint=f"stacker umount {entry.record.target}",
            )
