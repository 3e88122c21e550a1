"""Remove names and images from the store, with the parts that no other image uses.

A store and images come in; what was removed goes out, or a `LockedError` if an image is in use.
Locks are taken before the mount table is read: a mount in progress holds a lock, and a finished
mount is in the table.
"""

from __future__ import annotations

import re
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, LockedError, NotFoundError, UsageError, shell_word
from stacker.linux import mountinfo
from stacker.mount.table import Table
from stacker.operations.stack import chain_id_of
from stacker.store.snapshotters import HeldParts

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from stacker.image.digest import ChainID, DiffID, Digest, ImageID
    from stacker.store.images import StoredImage
    from stacker.store.store import Store

    Discard = Callable[[Iterable[Path]], None]
    """Moves paths to the trash of the store."""

_PARTS = re.compile(r"\b(layers|chains)/(\w+)/([0-9a-f]{64})\b")
"""A layer or a chain in a path, such as a lower directory or an EROFS image."""


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


@dataclass(frozen=True, slots=True)
class Removal:
    """The names and images that were removed.

    :param untagged: names that were removed from an image that stays.
    :param images: for each removed image, its parts that no image after it uses.
    """

    untagged: dict[str, ImageID]
    images: dict[ImageID, ImageParts]


def remove_named(store: Store, texts: Iterable[str], *, force: bool = False) -> Removal:
    """Remove names, and each image whose last name is removed; or nothing if one cannot be removed.

    :param texts: names, image IDs, unique prefixes of IDs, or sources.  Only a name keeps an image
        that has other names.
    :param force: remove an image with several names although `texts` has its ID.
    :raises NotFoundError: the store lacks an image.
    :raises UsageError: an ID of an image with several names.
    :raises LockedError: an image is mounted, or another process mounts or unpacks it.
    """
    store.require_writable()
    texts = list(texts)
    with store.images.read_lock():  # the write lock would create a missing store
        for text in texts:
            store.images.find_name(text)
    store.partials.sweep()
    with store.staging.trash() as discard, store.images.write_lock():
        found = [store.images.find_name(text) for text in texts]
        untagged, image_ids = _divided(store, found, force=force)
        with removable_images(store, image_ids) as unused:
            if untagged:
                store.images.untag(untagged)
            _remove(store, unused, discard)
    return Removal(untagged, unused)


def _divided(
    store: Store, found: Sequence[tuple[ImageID, str | None]], *, force: bool
) -> tuple[dict[str, ImageID], list[ImageID]]:
    """Return the names to remove from images that stay, and the images to remove."""
    names = {image.id: set(image.names) for image in store.images.all()}
    given: dict[ImageID, set[str | None]] = {}
    for image_id, name in found:
        given.setdefault(image_id, set()).add(name)
    untagged: dict[str, ImageID] = {}
    removed = []
    for image_id, chosen in given.items():
        others = names.get(image_id, set()) - chosen
        if None in chosen and len(names.get(image_id, ())) > 1 and others and not force:
            raise _several_names(image_id, names[image_id])
        if None in chosen or not others:
            removed.append(image_id)
        else:
            untagged |= {name: image_id for name in chosen if name is not None}
    return untagged, removed


def _several_names(image_id: ImageID, names: Iterable[str]) -> UsageError:
    return UsageError(
        f"image with several names: {image_id.short}: got {', '.join(sorted(names))}, want one",
        hint="remove it by its names, or with --force",
    )


def remove_image(store: Store, image_id: ImageID) -> ImageParts:
    """Remove an image with all its names; see `remove_images`."""
    return remove_images(store, [image_id]).images[image_id]


def remove_images(store: Store, image_ids: Iterable[ImageID]) -> Removal:
    """Remove images with all their names, or none of them if one cannot be removed.

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
        _remove(store, unused, discard)
        return Removal({}, unused)


def _remove(store: Store, unused: dict[ImageID, ImageParts], discard: Discard) -> None:
    for image_id in unused:
        store.images.remove(image_id)
    discard(path for parts in unused.values() for path in paths_of(store, parts))


@contextmanager
def removable_images(
    store: Store, image_ids: Sequence[ImageID], *, besides: Collection[ImageID] = ()
) -> Iterator[dict[ImageID, ImageParts]]:
    """Lock images and their layers against readers for the block, so that it can remove them.

    The caller holds the write lock of the list of images.

    :param besides: other images that are removed, too.
    :returns: for each image, the parts that no image after it, and no snapshot of containerd, uses.
    :raises NotFoundError: the store lacks an image.
    :raises LockedError: an image is mounted, or another process mounts or unpacks it.
    """
    unused = _unused_parts(store, image_ids, besides)
    every = {diff_id for parts in unused.values() for diff_id in parts.layers}
    with store.images.removing(unused), store.layers.removing(every) as locked:
        mounted = MountedParts.read(store, HeldParts({}, {}))
        for image_id, parts in unused.items():
            _refuse_mounted(mounted, image_id, parts)
        held = HeldParts.read(store)
        kept = ImageParts(frozenset(held.layers), frozenset(held.chains), frozenset())
        unused = {image_id: parts.without(kept) for image_id, parts in unused.items()}
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
    """The layers and chains that mounts use, by digest, each with the target of one mount.

    The target of a snapshot of containerd is the directory of all snapshots.

    :param unrecorded: the targets of mounts without a record that can be read.
    :param unknown: the target of a mount that can use any layer, because its record is damaged and
        the kernel does not report its layers.
    """

    layers: dict[str, Path]
    chains: dict[str, Path]
    unrecorded: frozenset[Path] = frozenset()
    unknown: Path | None = None

    @classmethod
    def read(cls, store: Store, held: HeldParts | None = None) -> MountedParts:
        """Read the mount table.  The caller has locked what it wants to remove.

        :param held: what snapshots use; ``None`` to read it.
        """
        held, table = held or HeldParts.read(store), Table(store.mounts)
        found = cls(
            {str(diff_id): root for diff_id, root in held.layers.items()},
            {str(chain_id): root for chain_id, root in held.chains.items()},
        )
        for entry in table.entries():
            if entry.state != "stale":
                found.layers.update(dict.fromkeys(entry.record.diff_ids, entry.record.target))
                if entry.record.chain_id is not None:
                    found.chains[entry.record.chain_id] = entry.record.target
        return found if table.is_readable() else found._with_kernel_mounts(table)

    def _with_kernel_mounts(self, table: Table) -> MountedParts:
        """Return the parts with those in the options and sources of the kernel's mounts."""
        recorded = {*self.layers.values(), *self.chains.values()}
        unknown, points = set(table.unrecorded().values()), mountinfo.read().mounts
        for mount in points:
            for text in (str(mount.root), mount.source, mount.super_options):
                for kind, algorithm, digits in _PARTS.findall(text):
                    parts = self.layers if kind == "layers" else self.chains
                    parts.setdefault(f"{algorithm}:{digits}", mount.mount_point)
        served = (each.mount_point for each in points if each.fstype.startswith("fuse"))
        return replace(
            self,
            unrecorded=frozenset(each.mount_point for each in points) - recorded,
            unknown=next((point for point in served if point in unknown), None),
        )

    def may_use(self, diff_id: DiffID) -> bool:
        """Return whether a mount uses a layer, or may use it."""
        return self.unknown is not None or str(diff_id) in self.layers

    def target(self, parts: ImageParts) -> Path | None:
        """Return the target of a mount that uses one of the parts."""
        layers = (self.layers.get(str(diff_id)) for diff_id in parts.layers)
        chains = (self.chains.get(str(chain_id)) for chain_id in parts.chains)
        any_layer = self.unknown if parts.layers else None
        return next(filter(None, (*layers, *chains, any_layer)), None)


def _refuse_mounted(mounted: MountedParts, image_id: ImageID, unused: ImageParts) -> None:
    target = mounted.target(unused)
    if target is None:
        return
    if target not in mounted.unrecorded:
        raise LockedError(
            f"image in use: {image_id}: it is mounted at {target}",
            hint=f"stacker umount {shell_word(target)}",
        )
    raise LockedError(
        f"image perhaps in use: {image_id}: got a damaged record of the mount at {target}",
        hint=f"unmount it with `umount {shell_word(target)}`",
    )
