"""Push an image of the store to a destination, with the image ID that it has.

A store, the name of an image and a destination come in; a `Pushed` goes out.  A layer keeps its
original blob if the store or the destination has the blob.  Otherwise the layer is packed: its tar
is reassembled from its directory, verified and compressed.  This module must not speak HTTP or
write archives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, NotFoundError
from stacker.events import Emit, LayerPacked, LayersToPack
from stacker.image import mediatype
from stacker.image.config import pair_layers
from stacker.image.descriptor import Descriptor
from stacker.image.digest import DiffID, Digest, ImageID
from stacker.image.location import repository_of
from stacker.image.manifest import Manifest
from stacker.jobs.pack_layer import PackOptions, PackTask, pack_layer
from stacker.jobs.pool import run_tasks
from stacker.operations.copy import Copied, Repositories, copy_image, is_distributable
from stacker.operations.durability import ensure_sound
from stacker.operations.verify import verify_layers
from stacker.source.files import Directory, open_blob_file
from stacker.source.protocol import read_document
from stacker.store.images import NAME, SOURCE

if TYPE_CHECKING:
    from typing import BinaryIO

    from stacker.destination.protocol import Destination
    from stacker.image.config import ImageConfig
    from stacker.operations.durability import Restore
    from stacker.store.store import Store
    from stacker.stream.compression import Compression


@dataclass(frozen=True, slots=True)
class Pushed:
    """The result of a push.

    :param original: whether the manifest is the one that was pulled, byte for byte.
    :param packed: the number of layers that were compressed again.
    """

    image_id: ImageID
    copied: Copied
    original: bool
    packed: int


@dataclass(frozen=True, slots=True)
class StoredImageSource:
    """An image of the store as a `Source`.

    :param store: the directory of the store.
    :param manifest: the manifest, whose descriptor embeds the content.
    :param packed: files with the blobs that were packed for this push.
    """

    store: Path
    manifest: Descriptor
    names: tuple[str, ...] = ()
    packed: Mapping[Digest, Path] = field(default_factory=dict, hash=False)

    @classmethod
    def of(
        cls, store: Store, manifest: Descriptor, packed: Iterable[LayerPacked]
    ) -> StoredImageSource:
        """Return an image of the store with packed layers."""
        files = {layer.digest: layer.path for layer in packed}
        return cls(store.root, manifest, packed=files)

    def root(self) -> Descriptor:
        """Return the manifest; see `Source`."""
        return self.manifest

    def document(self, descriptor: Descriptor) -> bytes:
        """Return a document after checking its size and digest; see `Source`."""
        return read_document(self, descriptor, "the store")

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        """Open a blob; see `Source`."""
        digest = descriptor.digest
        if path := self.packed.get(digest):
            directory = Directory(str(path.parent), "packed layer")
            return open_blob_file(directory, path.name, descriptor)
        blobs = Directory(str(self.store / "blobs"), "blob of the store")
        return open_blob_file(blobs, f"{digest.algorithm}/{digest.hex}", descriptor)


def push_image(
    store: Store,
    text: str,
    destination: Destination,
    *,
    packing: PackOptions,
    jobs: int,
    emit: Emit,
    tagged: bool = True,
    restore: Restore | None = None,
) -> Pushed:
    """Push the image that `text` names: an image ID, the first digits of one, or a name.

    :param jobs: the number of layers to pack, or blobs to send, at the same time.
    :param emit: receives `LayersToPack` and the events of `pack_layer` and `copy_image`.
    :param tagged: see `copy_image`.
    :param restore: unpacks missing layers, and layers that a power cut damaged.
    :raises NotFoundError: the store lacks the image or one of its layers.
    :raises IntegrityError: a file of a layer on disk has other contents or attributes.
    """
    image_id = store.images.find(text)
    with ExitStack() as held:
        config = held.enter_context(store.images.reading(image_id))
        directory = held.enter_context(store.staging.directory("push"))
        with store.images.read_lock():
            repositories = _repositories(store)
            descriptor = choose_manifest(store, image_id, text)
            manifest = store.images.manifest(descriptor)
        diff_ids = _layers_to_pack(store, destination, manifest, config, repositories)
        ensure_sound(store, image_id, restore, diff_ids)
        held.enter_context(store.layers.reading(diff_ids))
        _require_unchanged(store, image_id, diff_ids, jobs, emit)
        tasks = [PackTask(store, directory, each, packing) for each in diff_ids]
        packed = _pack(store, tasks, jobs, emit)
        root = _embedded(store, descriptor)
        if packed:
            root = _repacked_manifest(store, manifest, config, packed, packing).embedded()
        source = StoredImageSource.of(store, root, packed.values())
        copied = copy_image(
            source, destination, jobs=jobs, emit=emit, repositories=repositories, tagged=tagged
        )
    return Pushed(image_id, copied, not packed, len(packed))


def choose_manifest(store: Store, image_id: ImageID, text: str) -> Descriptor:
    """Return the manifest that has the name `text`, else the one with the most blobs in the store.

    Among equals, return the one that was pulled last.

    :raises NotFoundError: no manifest in the store refers to the image.
    """
    entries = [m for image in store.images.all() if image.id == image_id for m in image.manifests]
    if not entries:
        raise NotFoundError(
            f"no such image: {image_id}: the store has no manifest of it",
            hint="`stacker images` lists the images in the store",
        )

    def rank(numbered: tuple[int, Descriptor]) -> tuple[bool, int, int]:
        number, entry = numbered
        layers = store.images.manifest(entry).layers
        is_named = text in (entry.annotations.get(NAME), entry.annotations.get(SOURCE))
        return is_named, sum(store.blobs.has(layer.digest) for layer in layers), number

    return max(enumerate(entries), key=rank)[1]


def _embedded(store: Store, descriptor: Descriptor) -> Descriptor:
    """Return the descriptor of a manifest in the store, with the manifest's bytes in it."""
    return replace(descriptor, data=store.blobs.read(descriptor.digest), annotations={})


def _repositories(store: Store) -> Repositories:
    """Return the repositories from which each blob was pulled, the latest first."""
    found: dict[Digest, dict[str, None]] = {}
    for image in reversed(store.images.all()):
        for entry in reversed(image.manifests):
            repository = repository_of(entry.annotations.get(SOURCE, ""))
            if not repository:
                continue
            manifest = store.images.manifest(entry)
            for blob in (manifest.config, *manifest.layers):
                found.setdefault(blob.digest, {})[repository] = None
    return lambda digest: tuple(found.get(digest, ()))


def _layers_to_pack(
    store: Store,
    destination: Destination,
    manifest: Manifest,
    config: ImageConfig,
    repositories: Repositories,
) -> list[DiffID]:
    """Return the layers whose original blob neither the store nor the destination has."""
    missing: dict[DiffID, None] = {}
    for blob, diff_id in pair_layers(manifest, config):
        if store.blobs.has(blob.digest) or not is_distributable(blob):
            continue
        mount_from = repositories(blob.digest)
        if destination.put_blob(blob, None, mount_from=mount_from, report=lambda _: None) is None:
            missing[diff_id] = None
    return list(missing)


def _require_unchanged(
    store: Store, image_id: ImageID, diff_ids: Sequence[DiffID], jobs: int, emit: Emit
) -> None:
    """Compare the attributes of layers.

    Packing takes the attributes from the skeleton, so the diff_id does not cover those on disk.
    """
    for layer in verify_layers(store, diff_ids, contents=False, jobs=jobs, emit=emit):
        if not layer.is_sound:
            differences = sorted(layer.differences, key=lambda each: each.what == "mtime")
            # Times come last: a changed file can also change the time of its directory.
            how = layer.damage or differences[0]
            raise IntegrityError(
                f"layer differs from its skeleton: layer {layer.diff_id}: {how}",
                hint=f"`stacker repair {image_id.short}` replaces damaged layers",
            )


def _pack(
    store: Store, tasks: Sequence[PackTask], jobs: int, emit: Emit
) -> dict[DiffID, LayerPacked]:
    sizes = {task.diff_id: store.layers.record(task.diff_id).tar_bytes for task in tasks}
    emit(LayersToPack(tuple(sizes.items())))
    packed: dict[DiffID, LayerPacked] = {}
    if tasks:
        largest_first = sorted(tasks, key=lambda task: -sizes[task.diff_id])
        for layer in run_tasks(
            largest_first,
            pack_layer,
            jobs=jobs,
            emit=emit,
            what=lambda task: f"layer {task.diff_id}",
        ):
            emit(layer)
            packed[layer.diff_id] = layer
    return packed


def _repacked_manifest(
    store: Store,
    manifest: Manifest,
    config: ImageConfig,
    packed: Mapping[DiffID, LayerPacked],
    packing: PackOptions,
) -> Manifest:
    """Return an OCI manifest with the same config and with the packed layers.

    It is OCI because Docker has no media type for zstd; all media types of a manifest must be
    of one family.
    """
    layers = [
        _packed_layer(packed[diff_id], packing.compression)
        if diff_id in packed
        else oci_layer(blob)
        for blob, diff_id in pair_layers(manifest, config)
    ]
    size = len(store.blobs.read(manifest.image_id))
    described = Descriptor(mediatype.OCI_CONFIG, Digest.recast(manifest.image_id), size)
    return Manifest(mediatype.OCI_MANIFEST, described, tuple(layers), manifest.annotations)


def _packed_layer(layer: LayerPacked, compression: Compression) -> Descriptor:
    return Descriptor(f"{mediatype.OCI_LAYER}+{compression}", layer.digest, layer.size)


def oci_layer(blob: Descriptor) -> Descriptor:
    """Return the descriptor of a layer with OCI's media type in place of Docker's."""
    for docker, oci in (
        (mediatype.DOCKER_LAYER, mediatype.OCI_LAYER),
        (mediatype.DOCKER_FOREIGN_LAYER, mediatype.OCI_FOREIGN_LAYER),
    ):
        if blob.media_type.startswith(docker):
            suffix = blob.media_type.removeprefix(docker).replace(".", "+")
            return replace(blob, media_type=oci + suffix)
    return blob
