"""Pull an image: fetch what the store lacks, unpack it, stack it and list it.

A source, a store and options come in; an `ImagePulled` with the image ID goes out.
This module must not know how a blob is fetched or a layer unpacked: workers run `unpack_layer`.
If the store has every layer, a pull imports neither the workers nor what they use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from stacker.errors import IntegrityError, NotFoundError
from stacker.events import Emit, ImagePulled, LayersFound, LayerUnpacked, MissingLayer
from stacker.image.config import ImageConfig, pair_layers, parse_config
from stacker.image.descriptor import Descriptor
from stacker.image.digest import DiffID, ImageID
from stacker.image.manifest import Manifest, parse_document
from stacker.image.platform import Platform
from stacker.image.selection import require_platform
from stacker.jobs.tasks import LayerIdentity, UnpackOptions, UnpackTask
from stacker.linux import lock
from stacker.linux.filesystem import sync_filesystem
from stacker.operations.durability import sound_layers
from stacker.operations.names import distinct_names
from stacker.operations.schema1 import UndeclaredDiffID, convert, layers_of, manifest_of
from stacker.operations.stack import ensure_stack, is_complete
from stacker.source.protocol import Source
from stacker.source.resolve import has_index_platform, resolve
from stacker.store.store import Store

_ATTEMPTS = 3
UnpackLayer = Callable[[UnpackTask, Emit], LayerUnpacked]
"""Unpacks one layer, in a worker process."""


def pull_image(
    store: Store,
    source: Source,
    *,
    platform: Platform,
    options: UnpackOptions,
    jobs: int,
    origin: str,
    emit: Emit,
    names: tuple[str, ...] | None = None,
    must_match: bool = False,
    unpack: UnpackLayer | None = None,
) -> ImagePulled:
    """Pull an image into the store.

    :param platform: which image of an index to pull.
    :param must_match: refuse an image for another platform, even if it is the only one.
    :param jobs: the number of layers to unpack at the same time.
    :param origin: the source as the user wrote it, stored with the image's names.
    :param names: the image's names in the store; ``None`` for those that it has in the source.
    :param emit: receives `LayersFound`, `LayerUnpacked` and the events of `unpack`.
    :param unpack: what workers run for a layer; ``None`` for `unpack_layer`.
    :raises NotFoundError: the source has no such image, or another process removed it.
    :raises IntegrityError: a document or a layer differs from its digest.
    :raises LayerError: a layer is malformed, or exceeds a limit.
    """
    store.require_writable()
    unpacker = _Unpacker(store, options, jobs, emit, unpack)
    with lock.shared(store.pull_lock):  # gc keeps the layers until the image is listed
        return _pull(unpacker, source, platform, _Names(origin, names), must_match=must_match)


@dataclass(frozen=True, slots=True)
class _Names:
    """The source as the user wrote it, and the names of the image unless they are the source's."""

    origin: str
    chosen: tuple[str, ...] | None

    def of(self, store: Store, source: Source, image_id: ImageID) -> tuple[str, ...]:
        """Return the names for an image.  The caller holds the write lock of the list."""
        if self.chosen is not None or not source.names:
            return self.chosen or ()
        others = (image for image in store.images.all() if image.id != image_id)
        return distinct_names(source.names, self.origin, others)


def _pull(
    unpacker: _Unpacker, source: Source, platform: Platform, names: _Names, *, must_match: bool
) -> ImagePulled:
    store, options = unpacker.store, unpacker.options
    source, unpacked = _convert_schema1(source, unpacker, platform if must_match else None)
    descriptor = resolve(source, platform)
    manifest = _manifest(source, descriptor)
    for _ in range(_ATTEMPTS):
        content = _config(store, source, manifest)
        config = parse_config(content, f"config {manifest.image_id}")
        if must_match and not has_index_platform(source, descriptor):
            require_platform(config.platform, platform, str(manifest.image_id))
        unpacked += unpacker.unpack_image(source, manifest, config, is_first=not unpacked)
        if not _stack(store, config, options):
            continue
        moved = _list(
            store,
            source,
            descriptor,
            (manifest.image_id, content),
            config=config,
            names=names,
            sync=options.sync,
        )
        if moved is not None:
            return _result(manifest.image_id, descriptor, config, unpacked, moved)
        # Another process removed a layer or the stack in the meantime.
    raise _removed(manifest.image_id)


def _removed(image_id: ImageID) -> NotFoundError:
    return NotFoundError(
        f"image removed while it was pulled: {image_id}",
        hint="run the command again when the other process is done",
    )


def _result(
    image_id: ImageID,
    manifest: Descriptor,
    config: ImageConfig,
    unpacked: Sequence[LayerUnpacked],
    moved: dict[str, ImageID],
) -> ImagePulled:
    records = [layer.record for layer in unpacked if layer.record is not None]
    present = len(set(config.diff_ids)) - len(records)
    warnings = dict.fromkeys(warning for record in records for warning in record.warnings)
    mine = {layer.diff_id for layer in unpacked if layer.record is not None}
    layers = tuple(diff_id for diff_id in dict.fromkeys(config.diff_ids) if diff_id in mine)
    return ImagePulled(
        image_id,
        manifest,
        unpacked=len(records),
        present=present,
        warnings=tuple(warnings),
        layers=layers,
        moved=tuple(moved.items()),
    )


def _manifest(source: Source, descriptor: Descriptor) -> Manifest:
    what = f"{descriptor.digest}"
    content = source.document(descriptor)
    document = parse_document(content, media_type=descriptor.media_type or None, what=what)
    if isinstance(document, Manifest):
        return document
    raise IntegrityError(f"{what}: got an index, want a manifest")


def _config(store: Store, source: Source, manifest: Manifest) -> bytes:
    """Return the image's config from the store, or from the source if it is missing or damaged."""
    with suppress(NotFoundError, IntegrityError):
        return store.blobs.read(manifest.image_id)
    return source.document(manifest.config)


def _convert_schema1(
    source: Source, unpacker: _Unpacker, platform: Platform | None
) -> tuple[Source, list[LayerUnpacked]]:
    """Return a source of schema 2, and the layers that were unpacked to compute its config.

    :param platform: the platform that an image of schema 1 must have.
    """
    manifest = manifest_of(source)
    if manifest is None:
        return source, []
    if platform:
        require_platform(manifest.platform, platform, str(source.root().digest))
    limit = unpacker.options.limits.unpacked_bytes
    layers, missing = layers_of(unpacker.store, source, manifest, limit=limit)
    present = tuple(dict.fromkeys(diff_id for _, diff_id in layers.values()))
    identities = [(blob, UndeclaredDiffID(blob.digest)) for blob in missing]
    unpacked = unpacker.unpack(source, identities, present) if missing else []
    diff_ids = {layer.blob: layer.diff_id for layer in unpacked}
    layers |= {blob.digest: (blob, diff_ids[blob.digest]) for blob in missing}
    return convert(source, manifest, layers), unpacked


@dataclass(frozen=True, slots=True)
class _Unpacker:
    store: Store
    options: UnpackOptions
    jobs: int
    emit: Emit
    unpack_layer: UnpackLayer | None

    def unpack_image(
        self, source: Source, manifest: Manifest, config: ImageConfig, *, is_first: bool
    ) -> list[LayerUnpacked]:
        """Unpack the layers of an image that the store lacks.

        :param is_first: report `LayersFound` even if no layer is missing.
        """
        blobs = {diff_id: blob for blob, diff_id in pair_layers(manifest, config)}
        sound = sound_layers(self.store, blobs)
        if self.options.keep_blobs:  # a worker fetches the blob of a layer that is unpacked
            sound = {each for each in sound if self.store.blobs.has(blobs[each].digest)}
        present = tuple(diff_id for diff_id in blobs if diff_id in sound)
        lacking = [(blob, diff_id) for diff_id, blob in blobs.items() if diff_id not in sound]
        if not (lacking or is_first):
            return []
        return self.unpack(source, list(_declared(lacking)), present)

    def unpack(
        self,
        source: Source,
        missing: Sequence[tuple[Descriptor, LayerIdentity]],
        present: tuple[DiffID, ...],
    ) -> list[LayerUnpacked]:
        """Unpack the missing layers in worker processes, the largest first."""
        layers = (MissingLayer(identity.name, blob.digest, blob.size) for blob, identity in missing)
        self.emit(LayersFound(tuple(layers), present))
        if not missing:
            return []
        self.store.staging.sweep()
        self.store.partials.sweep()
        unpacked: list[LayerUnpacked] = []
        try:
            for layer in self._run(source, missing):
                self.emit(layer)
                unpacked.append(layer)
        finally:
            if len(unpacked) < len(missing):
                self.store.staging.sweep()
        return unpacked

    def _run(
        self, source: Source, missing: Sequence[tuple[Descriptor, LayerIdentity]]
    ) -> Iterable[LayerUnpacked]:
        from stacker.jobs.pool import run_tasks
        from stacker.jobs.unpack_layer import unpack_layer

        _import_compressions()
        tasks = [
            UnpackTask(source, self.store, blob, identity, self.options)
            for blob, identity in sorted(missing, key=lambda layer: -layer[0].size)
        ]
        work = self.unpack_layer or unpack_layer
        return run_tasks(tasks, work, jobs=self.jobs, emit=self.emit, what=lambda task: task.what)


def _declared(
    layers: Sequence[tuple[Descriptor, DiffID]],
) -> Iterable[tuple[Descriptor, LayerIdentity]]:
    if layers:
        from stacker.jobs.unpack_layer import DeclaredDiffID

        for blob, diff_id in layers:
            yield blob, DeclaredDiffID(diff_id)


def _import_compressions() -> None:
    """Import, before the fork, modules that otherwise each worker would import."""
    import isal.igzip_lib  # noqa: F401
    import xattr  # noqa: F401
    import zstandard  # noqa: F401


def _stack(store: Store, config: ImageConfig, options: UnpackOptions) -> bool:
    """Stack the layers; return False if the store lacks one of them."""
    with ExitStack() as held:
        try:
            held.enter_context(store.layers.reading(config.diff_ids))
        except NotFoundError:
            return False
        ensure_stack(store, config, form=options.form, limits=options.limits, sync=options.sync)
        return True


def _list(
    store: Store,
    source: Source,
    descriptor: Descriptor,
    document: tuple[ImageID, bytes],
    *,
    config: ImageConfig,
    names: _Names,
    sync: bool,
) -> dict[str, ImageID] | None:
    """Add the image to the list of images.

    :param document: the image's ID and the document of its config.
    :param sync: flush the filesystem before the list is written, and again afterwards.
    :returns: the names that moved from other images; ``None`` if the store lacks a part of it.
    """
    with store.images.write_lock():
        if not is_complete(store, config):
            return None
        store.blobs.write(*document)
        store.blobs.write(descriptor.digest, source.document(descriptor))
        if sync:  # the list must not refer to anything that a crash can lose
            sync_filesystem(store.root)
        chosen = names.of(store, source, document[0])
        moved = store.images.add(descriptor, chosen, names.origin)
        if sync:
            sync_filesystem(store.root)
        return moved
