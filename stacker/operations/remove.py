"""Remove images from the store, with the parts that no other image uses.

A store and image IDs come in; the removed `ImageParts` go out, or a `LockedError` if an image is
in use.  Locks are taken before the mount table is read: a mount in progress holds a lock, and a
finished mount is in the table.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, LockedError, NotFoundError, shell_word
from stacker.mount.table import Table
from stacker.operations.stack import chain_id_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
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

    def among(self, store: Store, roots: Collection[Path]) -> ImageParts:
        """Return the parts with only those layers whose directories are given."""
        layers = (each for each in self.layers if store.layers.own_paths(each).root in roots)
        return ImageParts(frozenset(layers), self.chains, self.blobs)

    def union(self, other: ImageParts) -> ImageParts:
        """Return the parts that are in either."""
        return ImageParts(
            self.layers | other.layers, self.chains | other.chains, self.blobs | other.blobs
        )


def remove_image(store: Store, image_id: ImageID) -> ImageParts:
    """Remove an image with all its names; see `remove_images`."""
    return remove_images(store, [image_id])[image_id]


def remove_images(store: Store, image_ids: Iterable[ImageID]) -> dict[ImageID, ImageParts]:
    """Remove images with all their names, or none of them if one cannot be removed.

    :returns: for each image, the parts that were removed because no image after it uses them.
    :raises NotFoundError: the store lacks an image.
    :raises LockedError: an image is mounted, or another process mounts or unpacks it.
    """
    store.require_writable()
    store.partials.sweep()
    image_ids = list(dict.fromkeys(image_ids))
    with (
        store.staging.trash() as discard,
        store.images.write_lock(),
        removable_images(store, image_ids) as unused,
    ):
        for image_id in image_ids:
            store.images.remove(image_id)
        discard(path for parts in unused.values() for path in paths_of(store, parts))
        return unused


@contextmanager
def removable_images(
    store: Store, image_ids: Sequence[ImageID], *, besides: Collection[ImageID] = ()
) -> Iterator[dict[ImageID, ImageParts]]:
    """Lock images and their layers against readers for the block, so that it can remove them.

    The caller holds the write lock of the list of images.

    :param besides: other images that are removed, too.
    :returns: for each image, the parts that no image after it uses.
    :raises NotFoundError: the store lacks an image.
    :raises LockedError: an image is mounted, or another process mounts or unpacks it.
    """
    unused = _unused_parts(store, image_ids, besides)
    every = {diff_id for parts in unused.values() for diff_id in parts.layers}
    with store.images.removing(unused), store.layers.removing(every) as locked:
        mounted = MountedParts.read(store)
        for image_id, parts in unused.items():
            _refuse_mounted(mounted, image_id, parts)
        yield {image_id: parts.among(store, locked) for image_id, parts in unused.items()}


def _unused_parts(
    store: Store, image_ids: Sequence[ImageID], besides: Collection[ImageID]
) -> dict[ImageID, ImageParts]:
    """Return for each image the parts that no kept image, and no later one of the list, uses."""
    images = {each.id: each for each in store.images.all() if each.id not in besides}
    for image_id in image_ids:
        if image_id not in images:
            raise NotFoundError(
                f"no such image: {image_id}", hint="`stacker images` lists the images in the store"
            )
    removed = [images.pop(image_id) for image_id in image_ids]
    used = parts_of(store, images.values())
    unused = {}
    for image in reversed(removed):
        parts = parts_of(store, [image])
        unused[image.id] = parts.without(used)
        used = used.union(parts)
    return {image_id: unused[image_id] for image_id in image_ids}


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


def paths_of(store: Store, parts: ImageParts) -> list[Path]:
    """Return the paths of those parts that the store has."""
    paths = [store.layers.own_paths(diff_id).root for diff_id in parts.layers]
    paths += [*map(store.chains.path, parts.chains), *map(store.blobs.path, parts.blobs)]
    return [path for path in paths if path.exists()]


@dataclass(frozen=True, slots=True)
class MountedParts:
    """The layers and chains that mounts use, by digest, each with the target of one mount."""

    layers: dict[str, Path]
    chains: dict[str, Path]

    @classmethod
    def read(cls, store: Store) -> MountedParts:
        """Read the mount table.  The caller has locked what it wants to remove."""
        found = cls({}, {})
        for entry in Table(store.mounts).entries():
            if entry.state != "stale":
                found.layers.update(dict.fromkeys(entry.record.diff_ids, entry.record.target))
                if entry.record.chain_id is not None:
                    found.chains[entry.record.chain_id] = entry.record.target
        return found

    def target(self, parts: ImageParts) -> Path | None:
        """Return the target of a mount that uses one of the parts."""
        layers = (self.layers.get(str(diff_id)) for diff_id in parts.layers)
        chains = (self.chains.get(str(chain_id)) for chain_id in parts.chains)
        return next(filter(None, (*layers, *chains)), None)


def _refuse_mounted(mounted: MountedParts, image_id: ImageID, unused: ImageParts) -> None:
    target = mounted.target(unused)
    if target is not None:
        raise LockedError(
            f"image in use: {image_id}: it is mounted at {target}",
            hint=f"stacker umount {shell_word(target)}",
        )
