"""An image out of the store, with everything that no other image needs.

In: a store and an image.  Out: nothing of it, or a refusal while it is mounted.  The order is
the list, the locks, the table of mounts: a mount that is being made holds a lock, and one that
was made stands in the table.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stacker.errors import LockedError, NotFoundError
from stacker.mount.table import Table
from stacker.operations.stack import chain_id_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from stacker.image.digest import ChainID, DiffID, Digest, ImageID
    from stacker.store.images import StoredImage
    from stacker.store.store import Store


@dataclass(frozen=True, slots=True)
class Parts:
    """What images are made of in the store, by name."""

    layers: frozenset[DiffID]
    chains: frozenset[ChainID]
    blobs: frozenset[Digest]

    def without(self, other: Parts) -> Parts:
        """Give what is in this and not in `other`."""
        return Parts(
            self.layers - other.layers, self.chains - other.chains, self.blobs - other.blobs
        )


def remove_image(store: Store, image_id: ImageID) -> Parts:
    """Remove an image with all its names.

    :returns: what went with it, since no other image needs it.
    :raises NotFoundError: it is not here.
    :raises LockedError: it is mounted, or somebody is mounting or unpacking it.
    """
    store.partials.sweep()
    with store.staging.trash() as discard, store.images.write_lock():
        images = {image.id: image for image in store.images.all()}
        mine = images.pop(image_id, None)
        if mine is None:
            raise NotFoundError(f"no such image: {image_id}")
        going = parts_of(store, [mine]).without(parts_of(store, images.values()))
        with ExitStack() as held:
            held.enter_context(store.images.removing(image_id))
            layers = held.enter_context(store.layers.removing(going.layers))
            _refuse_mounted(store, image_id, going)
            store.images.remove(image_id)
            discard([*layers, *_places(store, going)])
    return going


def parts_of(store: Store, images: Iterable[StoredImage]) -> Parts:
    """List what images are made of; what of it is missing is listed all the same."""
    layers: set[DiffID] = set()
    chains: set[ChainID] = set()
    blobs: set[Digest] = set()
    for image in images:
        config = store.images.config(image.id)
        layers.update(config.diff_ids)
        chains.add(chain_id_of(config))
        for descriptor in image.manifests:
            manifest = store.images.manifest(descriptor)
            blobs |= {descriptor.digest, manifest.config.digest}
            blobs |= {layer.digest for layer in manifest.layers}
    return Parts(frozenset(layers), frozenset(chains), frozenset(blobs))


def _places(store: Store, parts: Parts) -> list[Path]:
    wanted = [*map(store.chains.path, parts.chains), *map(store.blobs.path, parts.blobs)]
    return [path for path in wanted if path.exists()]


def _refuse_mounted(store: Store, image_id: ImageID, going: Parts) -> None:
    # By the end of a path: somebody may have mounted by another name of the store.
    inside = [f"/layers/{d.algorithm}/{d.hex}/" for d in going.layers]
    inside += [f"/chains/{c.algorithm}/{c.hex}/" for c in going.chains]
    for entry in Table(store.mounts).entries():
        if entry.state == "stale":
            continue
        if any(part in f"{layer}/" for layer in entry.record.layers for part in inside):
            raise LockedError(
                f"image in use: {image_id}: it is mounted at {entry.record.target}",
                hint=f"stacker umount {entry.record.target}",
            )
