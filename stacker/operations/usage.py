"""Count the bytes that images and the store take on disk.

A store comes in; numbers of bytes go out.  The size of a layer of an image is the sum of its file
sizes, which its record holds since it was unpacked.  The size of the store is what the filesystem
allocates for it; reflinked blocks count for each file, as in du(1).
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from stacker.errors import IntegrityError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stacker.image.config import ImageConfig
    from stacker.image.digest import DiffID
    from stacker.store.images import StoredImage
    from stacker.store.store import Store

_BLOCK: Final = 512  # bytes of a block in st_blocks, whatever the filesystem
_PATH_MAX: Final = 4096
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
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
    listed = {
        (os.fsencode(diff_id.algorithm), os.fsencode(diff_id.hex))
        for usage in images
        for diff_id in usage.config.diff_ids
    }
    sizes, unlisted = Counter[str](), 0
    for path, size in _allocated(store.root):
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
) -> ImageUsage:
    layers = {diff_id: sizes[diff_id] for diff_id in config.diff_ids}
    return ImageUsage(
        image,
        config,
        shared=sum(size or 0 for diff_id, size in layers.items() if users[diff_id] > 1),
        unique=sum(size or 0 for diff_id, size in layers.items() if users[diff_id] == 1),
        missing=sum(size is None for size in layers.values()),
    )


def tree_size(root: Path) -> int:
    """Return the bytes that a file, or a tree without other mounts, takes on disk.

    A file that another process removes meanwhile does not count.
    """
    return sum(size for _, size in _allocated(root))


def _allocated(root: Path) -> Iterator[tuple[bytes, int]]:
    """Yield the path below `root` and the allocated bytes of each inode, as du(1) counts them.

    A chain of hard links counts once.  Directories of other mounts are omitted.
    """
    status = root.lstat()
    yield b"", status.st_blocks * _BLOCK
    if not stat.S_ISDIR(status.st_mode):
        return
    seen: set[int] = set()
    left = [b""]
    while left:
        above = left.pop()
        for name, entry in _scan(root, above):
            if entry.st_dev != status.st_dev or entry.st_ino in seen:
                continue
            path = above + b"/" + name if above else name
            if stat.S_ISDIR(entry.st_mode):
                left.append(path)
            elif entry.st_nlink > 1:
                seen.add(entry.st_ino)
            yield path, entry.st_blocks * _BLOCK


def _scan(root: Path, below: bytes) -> list[tuple[bytes, os.stat_result]]:
    found: list[tuple[bytes, os.stat_result]] = []
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        descriptor = _open_below(root, below)
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        found.append((os.fsencode(entry.name), status))
        finally:
            os.close(descriptor)
    return found


def _open_below(root: Path, below: bytes) -> int:
    """Open a directory whose path can be longer than PATH_MAX."""
    descriptor = os.open(root, _DIRECTORY)
    while below:
        cut = len(below) if len(below) < _PATH_MAX else below.rindex(b"/", 0, _PATH_MAX)
        part, below = below[:cut], below[cut + 1 :]
        try:
            deeper = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = deeper
    return descriptor
