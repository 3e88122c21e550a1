"""Count the bytes that images and the store take on disk.

A store comes in; numbers of bytes go out.  The size of a layer of an image is the sum of its file
sizes, which its record holds since it was unpacked.  The size of the store is what the filesystem
allocates for it; reflinked blocks count for each file, as in du(1).
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from stacker.errors import IntegrityError, NotFoundError
from stacker.layer.paths import FORMS
from stacker.linux.walk import walk
from stacker.store.snapshotters import HeldParts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from stacker.image.config import ImageConfig
    from stacker.image.digest import DiffID
    from stacker.layer.paths import Form
    from stacker.store.images import StoredImage
    from stacker.store.store import Store

_BLOCK: Final = 512  # bytes of a block in st_blocks, whatever the filesystem
_PARTS: Final = {
    os.fsencode(name): name
    for name in ("layers", "blobs", "partial", "chains", "staging", "mounts")
}
_SKELETON_FILES: Final = {b"skeleton.tar.zst", b"checksums", b"seals"}


@dataclass(frozen=True, slots=True)
class ImageUsage:
    """One image, and the bytes of the files in its layers.

    :param shared: bytes in layers that other images also have.
    :param unique: bytes in layers that only this image has.
    :param missing: the number of layers that are damaged or not in the store.
    :param forms: the forms that its layers have.
    """

    image: StoredImage
    config: ImageConfig
    shared: int
    unique: int
    missing: int
    forms: tuple[Form, ...]

    @property
    def total(self) -> int:
        """Bytes of the files in all layers."""
        return self.shared + self.unique


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """A whole store, in bytes that the filesystem allocates, as du(1) counts them.

    Each inode belongs to one part, except that ``unlisted`` is included in ``layers``.

    :param layers: unpacked trees and records; a layer that several images share counts once.
    :param unlisted: layers that no image uses; an interrupted pull keeps its layers.
    :param skeletons: tars of layers without file contents, and checksums.
    :param blobs: manifests and configs, and the blobs of layers if they were kept.
    :param partial: blobs whose download was interrupted; the next pull resumes them.
    :param chains: directories that repair stacks.
    :param staging: unfinished work of running and of killed commands.
    :param mounts: records of mounts, and writes to mounts that are discarded at unmount.
    :param other: the list of images, indexes, lock files and directories of the store.
    """

    images: tuple[ImageUsage, ...]
    layers: int
    unlisted: int
    skeletons: int
    blobs: int
    partial: int
    chains: int
    staging: int
    mounts: int
    other: int

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        layers = self.layers + self.skeletons + self.chains
        return layers + self.blobs + self.partial + self.staging + self.mounts + self.other


def images_usage(
    store: Store, report: Callable[[str], object] = lambda _: None
) -> tuple[ImageUsage, ...]:
    """Return the usage of every image, in the order in which they were first pulled.

    :param report: called with a message for each document of an image that cannot be read.
    """
    with store.images.read_lock():
        images = store.images.with_configs(report)
    users = Counter(diff_id for _, config in images for diff_id in set(config.diff_ids))
    sizes = {diff_id: layer_bytes(store, diff_id) for diff_id in users}
    forms = {diff_id: store.layers.paths(diff_id).forms for diff_id in users}
    return tuple(_image_usage(image, config, users, sizes, forms) for image, config in images)


def store_usage(store: Store, report: Callable[[str], object] = lambda _: None) -> StoreUsage:
    """Return the usage of the whole store.

    :param report: as for `images_usage`.
    """
    images = images_usage(store, report)
    listed = {
        (os.fsencode(diff_id.algorithm), os.fsencode(diff_id.hex))
        for usage in images
        for diff_id in usage.config.diff_ids
    }
    listed |= {
        (os.fsencode(diff_id.algorithm), os.fsencode(diff_id.hex))
        for diff_id in HeldParts.read(store).layers
    }
    sizes, unlisted = Counter[str](), 0
    for path, size in allocated(store.root):
        part, _, rest = path.partition(b"/")
        names = rest.split(b"/", 3)
        kind = _PARTS.get(part, "other")
        if kind == "layers" and len(names) == 3 and names[2] in _SKELETON_FILES:
            kind = "skeletons"
        elif kind == "layers" and _is_layer(names) and (names[0], names[1]) not in listed:
            unlisted += size
        sizes[kind] += size
    kinds = (*_PARTS.values(), "skeletons", "other")
    return StoreUsage(images, unlisted=unlisted, **{kind: sizes[kind] for kind in kinds})


def _is_layer(names: list[bytes]) -> bool:
    """Return whether a path below ``layers/`` is that of a layer, not of a lock file."""
    return len(names) > 1 and not names[1].endswith(b".lock")


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
    forms: dict[DiffID, tuple[Form, ...]],
) -> ImageUsage:
    layers = {diff_id: sizes[diff_id] for diff_id in config.diff_ids}
    found = {form for diff_id in config.diff_ids for form in forms[diff_id]}
    return ImageUsage(
        image,
        config,
        shared=sum(size or 0 for diff_id, size in layers.items() if users[diff_id] > 1),
        unique=sum(size or 0 for diff_id, size in layers.items() if users[diff_id] == 1),
        missing=sum(size is None for size in layers.values()),
        forms=tuple(form for form in FORMS if form in found),
    )


class FreedSpace:
    """Adds up the bytes on disk that the removal of several trees frees.

    A file with hard links is freed with its last link, and counts then.
    """

    def __init__(self) -> None:
        self._links = Counter[tuple[int, int]]()

    def add(self, root: Path) -> int:
        """Return the bytes that the removal of a tree frees, after the trees before it."""
        freed = 0
        for _, status in walk(root):
            inode = status.st_dev, status.st_ino
            if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                self._links[inode] += 1
                if self._links[inode] < status.st_nlink:
                    continue
            freed += status.st_blocks * _BLOCK
        return freed


def allocated(root: Path) -> Iterator[tuple[bytes, int]]:
    """Yield the path below `root` and the allocated bytes of each inode, as du(1) counts them.

    A chain of hard links counts once.
    """
    seen: set[int] = set()
    for path, status in walk(root):
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            if status.st_ino in seen:
                continue
            seen.add(status.st_ino)
        yield path, status.st_blocks * _BLOCK
