"""Push: an image of the store to a destination, with the image ID it has.

(1) which of its manifests; (2) which of that one's blobs are kept here, or there already; (3) the
other layers, packed anew; (4) the manifest, as it was when every blob is the original, else made
anew; (5) the delivery.  In: a store, an image, a destination.  Out: what arrived.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.errors import NotFoundError
from stacker.events import Emit, LayerPacked, LayersToPack
from stacker.image import mediatype
from stacker.image.config import pair_layers
from stacker.image.descriptor import Descriptor
from stacker.image.digest import DiffID, Digest, ImageID
from stacker.image.location import repository_of
from stacker.image.manifest import Manifest
from stacker.jobs.pack_layer import PackTask, pack_layer
from stacker.jobs.pool import run_tasks
from stacker.operations.copy import Delivered, deliver, stays
from stacker.source.files import Directory, open_blob_file
from stacker.source.protocol import read_document
from stacker.store.images import NAME, SOURCE

if TYPE_CHECKING:
    from typing import BinaryIO

    from stacker.destination.protocol import Destination
    from stacker.image.config import ImageConfig
    from stacker.store.store import Store
    from stacker.stream.compression import Compression


@dataclass(frozen=True, slots=True)
class Pushed:
    """What came of a push.

    :param original: the manifest is the one that was pulled, byte for byte.
    :param packed: layers that were compressed anew.
    """

    image_id: ImageID
    delivered: Delivered
    original: bool
    packed: int


@dataclass(frozen=True, slots=True)
class Packing:
    """How layers are packed whose blob is not at hand."""

    compression: Compression = "gzip"
    level: int | None = None


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An image of the store, with blobs that were packed for the journey; see `Source`.

    `packed` has the paths of those.
    """

    store: Path
    chosen: Descriptor
    names: tuple[str, ...] = ()
    packed: Mapping[Digest, Path] = field(default_factory=dict, hash=False)

    def root(self) -> Descriptor:
        """Return the manifest."""
        return self.chosen

    def document(self, descriptor: Descriptor) -> bytes:
        """Return a document, checked; see `Source`."""
        return read_document(self, descriptor, "the store")

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        """Open a blob; see `Source`."""
        digest = descriptor.digest
        if path := self.packed.get(digest):
            return open_blob_file(
                Directory(str(path.parent), "packed layer"), path.name, descriptor
            )
        blobs = Directory(str(self.store / "blobs"), "blob of the store")
        return open_blob_file(blobs, f"{digest.algorithm}/{digest.hex}", descriptor)


def push(
    store: Store,
    text: str,
    destination: Destination,
    *,
    packing: Packing,
    jobs: int,
    emit: Emit,
    named: bool = True,
) -> Pushed:
    """Send the image that `text` names to `destination`.

    :param jobs: layers packed, or sent, at the same time.
    :param named: give it the destination's name; else it is there by its digest only.
    :param emit: called with `LayersToPack`, ``PackProgress``, ``LayerPacked`` and what
        `deliver` tells.
    :raises NotFoundError: the image, or a layer of it, is not here.
    :raises IntegrityError: what lies on disk is not what it was.
    """
    image_id = store.images.find(text)
    with ExitStack() as held:
        config = held.enter_context(store.images.reading(image_id))
        room = held.enter_context(store.staging.directory("push"))
        with store.images.read_lock():
            places = _origins(store)
            descriptor = manifest_of(store, image_id, text)
            manifest = store.images.manifest(descriptor)
        missing = _not_at_hand(store, destination, manifest, config, places)
        held.enter_context(store.layers.reading(missing))
        tasks = [PackTask(store.root, room, d, packing.compression, packing.level) for d in missing]
        packed = _packed(store, tasks, jobs, emit)
        content = store.blobs.read(image_id)
        if packed:
            root = _repacked(manifest, config, content, packed, packing).embedded()
        else:
            root = replace(descriptor, data=store.blobs.read(descriptor.digest), annotations={})
        outgoing = Outgoing(store.root, root, packed={p.digest: p.path for p in packed.values()})
        delivered = deliver(
            outgoing,
            destination,
            root=root,
            jobs=jobs,
            emit=emit,
            places=places,
            named=named,
        )
    return Pushed(image_id, delivered, not packed, len(packed))


def manifest_of(store: Store, image_id: ImageID, text: str) -> Descriptor:
    """Return the manifest of the name that was said, else the one with the most blobs here.

    Of equals it is the one that was pulled last.
    """
    entries = [m for image in store.images.all() if image.id == image_id for m in image.manifests]
    if not entries:
        raise NotFoundError(f"no such image: {image_id}: no manifest lists it")

    def worth(numbered: tuple[int, Descriptor]) -> tuple[bool, int, int]:
        number, entry = numbered
        layers = store.images.manifest(entry).layers
        said = text in (entry.annotations.get(NAME), entry.annotations.get(SOURCE))
        return said, sum(store.blobs.has(layer.digest) for layer in layers), number

    return max(enumerate(entries), key=worth)[1]


def _origins(store: Store) -> dict[Digest, tuple[str, ...]]:
    """Return the repositories from which each blob is known to have come, the latest first."""
    found: dict[Digest, dict[str, None]] = {}
    for image in reversed(store.images.all()):
        for entry in reversed(image.manifests):
            place = repository_of(entry.annotations.get(SOURCE, ""))
            if not place:
                continue
            manifest = store.images.manifest(entry)
            for blob in (manifest.config, *manifest.layers):
                found.setdefault(blob.digest, {})[place] = None
    return {digest: tuple(places) for digest, places in found.items()}


def _not_at_hand(
    store: Store,
    destination: Destination,
    manifest: Manifest,
    config: ImageConfig,
    places: Mapping[Digest, Sequence[str]],
) -> list[DiffID]:
    """Return the layers whose original blob neither the store nor the destination has."""
    missing: dict[DiffID, None] = {}
    for blob, diff_id in pair_layers(manifest, config):
        if store.blobs.has(blob.digest) or stays(blob):
            continue
        mount_from = places.get(blob.digest, ())
        if destination.put_blob(blob, None, mount_from=mount_from, report=lambda _: None) is None:
            missing[diff_id] = None
    return list(missing)


def _packed(
    store: Store, tasks: Sequence[PackTask], jobs: int, emit: Emit
) -> dict[DiffID, LayerPacked]:
    sizes = {task.diff_id: store.layers.record(task.diff_id).tar_bytes for task in tasks}
    emit(LayersToPack(tuple(sizes.items())))
    done: dict[DiffID, LayerPacked] = {}
    if tasks:
        largest_first = sorted(tasks, key=lambda task: -sizes[task.diff_id])
        for packed in run_tasks(largest_first, pack_layer, jobs=jobs, emit=emit):
            emit(packed)
            done[packed.diff_id] = packed
    return done


def _repacked(
    manifest: Manifest,
    config: ImageConfig,
    content: bytes,
    packed: Mapping[DiffID, LayerPacked],
    packing: Packing,
) -> Manifest:
    """Return an OCI manifest with new layers in the places of the old ones, and the same config.

    Docker's types do not name zstd, and a manifest is of one family.
    """
    layers = [
        _fresh(packed[diff_id], packing.compression) if diff_id in packed else _as_oci(blob)
        for blob, diff_id in pair_layers(manifest, config)
    ]
    described = Descriptor(mediatype.OCI_CONFIG, Digest.recast(manifest.image_id), len(content))
    return Manifest(mediatype.OCI_MANIFEST, described, tuple(layers), manifest.annotations)


def _fresh(layer: LayerPacked, compression: Compression) -> Descriptor:
    return Descriptor(f"{mediatype.OCI_LAYER}+{compression}", layer.digest, layer.size)


def _as_oci(blob: Descriptor) -> Descriptor:
    kinds: Iterable[tuple[str, str]] = (
        (mediatype.DOCKER_LAYER, mediatype.OCI_LAYER),
        (mediatype.DOCKER_FOREIGN_LAYER, mediatype.OCI_FOREIGN_LAYER),
    )
    for docker, oci in kinds:
        if blob.media_type.startswith(docker):
            suffix = blob.media_type.removeprefix(docker).replace(".", "+")
            return replace(blob, media_type=oci + suffix)
    return blob
