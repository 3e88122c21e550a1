"""What images take on disk, shared and alone.

In: a store.  Out: numbers of bytes.  A layer's are its files' sizes, as counted when it was
unpacked, so that nothing is walked; what is small and of another kind is measured.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, NotFoundError

if TYPE_CHECKING:
    from pathlib import Path

    from stacker.image.config import ImageConfig
    from stacker.image.digest import DiffID
    from stacker.store.images import StoredImage
    from stacker.store.store import Store


@dataclass(frozen=True, slots=True)
class ImageUsage:
    """One image, and the bytes of its layers' files.

    :param shared: in layers that another image has, too; ``own`` in the others.
    :param missing: layers that should be here and are not, or are damaged.
    """

    image: StoredImage
    config: ImageConfig
    shared: int
    own: int
    missing: int

    @property
    def total(self) -> int:
        """Bytes of all its layers' files."""
        return self.shared + self.own


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """A whole store, in bytes.

    :param layers: of all layers' files, each layer once; ``unlisted`` of those that no image
        lists (a pull that was broken off keeps what it has).
    :param skeletons: the layers' tars without contents.
    :param blobs: documents, and the layers' blobs where they are kept.
    :param partial: of blobs whose transfer broke off; the next pull goes on with them.
    :param chains: what stacking had to repair.
    :param mounts: writes that go with their mounts.
    """

    images: tuple[ImageUsage, ...]
    layers: int
    unlisted: int
    skeletons: int
    blobs: int
    partial: int
    chains: int
    mounts: int

    @property
    def total(self) -> int:
        """Everything."""
        return self.layers + self.skeletons + self.blobs + self.partial + self.chains + self.mounts


def images_in(store: Store) -> tuple[ImageUsage, ...]:
    """Measure every image, in the order they were first pulled."""
    with store.images.read_lock():
        images = [(image, store.images.config(image.id)) for image in store.images.all()]
    users = Counter(diff_id for _, config in images for diff_id in set(config.diff_ids))
    sizes = {diff_id: layer_bytes(store, diff_id) for diff_id in users}
    return tuple(_measured(image, config, users, sizes) for image, config in images)


def store_usage(store: Store) -> StoreUsage:
    """Measure everything."""
    images = images_in(store)
    listed = {diff_id for usage in images for diff_id in usage.config.diff_ids}
    here = {diff_id: layer_bytes(store, diff_id) or 0 for diff_id in store.layers.all()}
    return StoreUsage(
        images,
        layers=sum(here.values()),
        unlisted=sum(size for diff_id, size in here.items() if diff_id not in listed),
        skeletons=sum(_size(store.layers.paths(diff_id).skeleton) for diff_id in here),
        blobs=_tree_size(store.blobs.root),
        partial=_tree_size(store.partials.root) if store.partials.root.exists() else 0,
        chains=_tree_size(store.root / "chains"),
        mounts=_tree_size(store.mounts),
    )


def layer_bytes(store: Store, diff_id: DiffID) -> int | None:
    """Give the bytes of a layer's files; ``None`` when it is not here, or nothing to use.

    Whoever wants to know which images have a damaged layer must be able to list them.
    """
    try:
        return store.layers.record(diff_id).file_bytes
    except (NotFoundError, IntegrityError):
        return None


def users_of(store: Store) -> Counter[DiffID]:
    """Count the images that have each layer."""
    with store.images.read_lock():
        configs = [store.images.config(image.id) for image in store.images.all()]
    return Counter(diff_id for config in configs for diff_id in set(config.diff_ids))


def _measured(
    image: StoredImage,
    config: ImageConfig,
    users: Counter[DiffID],
    sizes: dict[DiffID, int | None],
) -> ImageUsage:
    mine = {diff_id: sizes[diff_id] for diff_id in config.diff_ids}
    return ImageUsage(
        image,
        config,
        shared=sum(size or 0 for diff_id, size in mine.items() if users[diff_id] > 1),
        own=sum(size or 0 for diff_id, size in mine.items() if users[diff_id] == 1),
        missing=sum(size is None for size in mine.values()),
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _tree_size(root: Path) -> int:
    """Add up the sizes of a tree's files, entering no mount; what vanishes meanwhile is gone."""
    total, left = 0, [os.fsencode(root)]
    device = root.stat().st_dev
    seen: set[int] = set()
    while left:
        try:
            with os.scandir(left.pop()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    if status.st_dev != device:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        left.append(entry.path)
                    elif entry.is_file(follow_symlinks=False) and status.st_ino not in seen:
                        seen.add(status.st_ino)
                        total += status.st_size
        except (FileNotFoundError, PermissionError):
            continue
    return total
