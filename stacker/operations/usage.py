"""Count the bytes that images and the store take on disk.

A store comes in; numbers of bytes go out.
The size of a layer is the sum of its file sizes, which its record holds since it was unpacked.
Only directories outside of layers are walked.
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
    from stacker.layer.paths import LayerPaths
    from stacker.store.images import StoredImage
    from stacker.store.store import Store


@dataclass(frozen=True, slots=True)
class ImageUsage:
    """One image, and the bytes of the files in its layers.

    :param shared: bytes in layers that other images also have.
    :param unique: bytes in layers that only this image has.
    :param missing: the number of layers that are damaged or not in the store.
    """

    image: StoredImage
    config: ImageConfig
    shared: int
    unique: int
    missing: int

    @property
    def total(self) -> int:
        """Bytes of the files in all layers."""
        return self.shared + self.unique


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """A whole store, in bytes.

    :param layers: files in all layers; a layer that several images share counts once.
    :param unlisted: files in layers that no image uses; an interrupted pull keeps its layers.
    :param skeletons: tars of layers without file contents.
    :param blobs: manifests and configs, and the blobs of layers if they were kept.
    :param partial: blobs whose download was interrupted; the next pull resumes them.
    :param chains: directories that repair stacks.
    :param mounts: writes to mounts that are discarded at unmount.
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
        """Bytes of all parts."""
        return self.layers + self.skeletons + self.blobs + self.partial + self.chains + self.mounts


def images_usage(store: Store) -> tuple[ImageUsage, ...]:
    """Return the usage of every image, in the order in which they were first pulled."""
    with store.images.read_lock():
        images = store.images.with_configs()
    users = Counter(diff_id for _, config in images for diff_id in set(config.diff_ids))
    sizes = {diff_id: layer_bytes(store, diff_id) for diff_id in users}
    return tuple(_image_usage(image, config, users, sizes) for image, config in images)


def store_usage(store: Store) -> StoreUsage:
    """Return the usage of the whole store."""
    images = images_usage(store)
    listed = {diff_id for usage in images for diff_id in usage.config.diff_ids}
    stored = {diff_id: layer_bytes(store, diff_id) or 0 for diff_id in store.layers.all()}
    return StoreUsage(
        images,
        layers=sum(stored.values()),
        unlisted=sum(size for diff_id, size in stored.items() if diff_id not in listed),
        skeletons=sum(_skeleton_size(store.layers.paths(diff_id)) for diff_id in stored),
        blobs=tree_size(store.blobs.root),
        partial=tree_size(store.partials.root) if store.partials.root.exists() else 0,
        chains=tree_size(store.root / "chains"),
        mounts=tree_size(store.mounts),
    )


def layer_bytes(store: Store, diff_id: DiffID) -> int | None:
    """Return the bytes of the files in a layer, or None if it is damaged or not in the store.

    It does not raise, so that a user can list the images with damaged layers.
    """
    try:
        return store.layers.record(diff_id).file_bytes
    except (NotFoundError, IntegrityError):
        return None


def count_layer_users(store: Store) -> Counter[DiffID]:
    """Return the number of images that use each layer."""
    with store.images.read_lock():
        images = store.images.with_configs()
    return Counter(diff_id for _, config in images for diff_id in set(config.diff_ids))


def _image_usage(
    image: StoredImage,
    config: ImageConfig,
    users: Counter[DiffID],
    sizes: dict[DiffID, int | None],
) -> ImageUsage:
    layers = {diff_id: sizes[diff_id] for diff_id in config.diff_ids}
    return ImageUsage(
        image,
        config,
        shared=sum(size or 0 for diff_id, size in layers.items() if users[diff_id] > 1),
        unique=sum(size or 0 for diff_id, size in layers.items() if users[diff_id] == 1),
        missing=sum(size is None for size in layers.values()),
    )


def _skeleton_size(paths: LayerPaths) -> int:
    return _size(paths.skeleton) + _size(paths.checksums) + _size(paths.seals)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def tree_size(root: Path) -> int:
    """Return the size of a file, or the sum of the file sizes below `root`, without other mounts.

    A file that another process removes meanwhile does not count.
    """
    status = root.stat()
    if not root.is_dir():
        return status.st_size
    total, left, device = 0, [os.fsencode(root)], status.st_dev
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
