"""Pull: the seven steps from a source to an image that can be mounted (DESIGN section 1).

(1) the manifest, through an index when there is one; (2) is the image here already?  (3) if not,
its config, which names the diff_ids; (4) which layers are here?  (5) the others' blobs; (6) each
unpacked and checked; (7) stacked and listed.  In: a source, a store, choices.  Out: an image ID.
Knows the order and the workers; what a layer or a stack is, others know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from stacker.errors import IntegrityError, NotFoundError
from stacker.events import Emit, LayersFound, LayerUnpacked, MissingLayer
from stacker.image.config import ImageConfig, pair_layers, parse_config
from stacker.image.descriptor import Descriptor
from stacker.image.digest import DiffID, ImageID
from stacker.image.manifest import Manifest, parse_document
from stacker.image.platform import Platform
from stacker.image.selection import require_platform
from stacker.jobs.tasks import LayerIdentity, UnpackOptions, UnpackTask
from stacker.linux.filesystem import sync_filesystem
from stacker.operations.schema1 import UndeclaredDiffID, converted, layers_of, manifest_of
from stacker.operations.stack import ensure_stack, is_complete
from stacker.source.protocol import Source
from stacker.source.resolve import has_index_platform, resolve
from stacker.store.store import Store

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Pulled:
    """What came of a pull.

    :param unpacked: layers this pull unpacked; ``present`` those it did not have to.
    """

    image_id: ImageID
    manifest: Descriptor
    unpacked: int = 0
    present: int = 0
    warnings: tuple[str, ...] = field(default=())


def pull(
    store: Store,
    source: Source,
    *,
    platform: Platform,
    options: UnpackOptions,
    jobs: int,
    origin: str,
    emit: Emit,
    must_match: bool = False,
    work: Callable[[UnpackTask, Emit], LayerUnpacked] | None = None,
) -> Pulled:
    """Bring an image into ``store`` and list it there.

    :param platform: which image of an index; ``must_match`` demands it of a lone one, too.
    :param jobs: layers unpacked at the same time.
    :param origin: the source as the caller named it, remembered beside the image's names.
    :param emit: called with :class:`LayersFound`, ``LayerProgress`` and ``LayerUnpacked``.
    :param work: what workers do with a layer in place of unpacking it; it may emit events.
    """
    means = _Means(store, options, jobs, emit, work)
    wanted = platform if must_match else None
    source, unpacked = _modern(source, means, wanted)
    descriptor = resolve(source, platform)
    manifest = _manifest(source, descriptor)
    image_id = manifest.image_id
    for _ in range(_ATTEMPTS):
        config = _config(store, source, manifest)
        if must_match and not has_index_platform(source, descriptor):
            require_platform(config.platform, platform, str(image_id))
        pairs = pair_layers(manifest, config)
        unpacked += _unpack_missing(source, pairs, means, is_first=not unpacked)
        if not _stack(store, config, options):
            continue  # somebody removed a layer meanwhile
        with store.images.write_lock():
            if not is_complete(store, config):
                continue
            store.blobs.write(image_id, source.document(manifest.config))
            store.blobs.write(descriptor.digest, source.document(descriptor))
            if options.sync:  # first what the list refers to, then the list
                sync_filesystem(store.root)
            store.images.add(descriptor, source.names, origin, sync=options.sync)
            if options.sync:
                sync_filesystem(store.root)
        mine = [layer.record for layer in unpacked if layer.record is not None]
        return Pulled(
            image_id,
            descriptor,
            len(mine),
            len(set(config.diff_ids)) - len(mine),
            tuple(dict.fromkeys(warning for record in mine for warning in record.warnings)),
        )
    raise NotFoundError(
        f"image removed while it was pulled: {image_id}", hint="somebody runs `stacker rm` here"
    )


def _manifest(source: Source, descriptor: Descriptor) -> Manifest:
    what = f"{descriptor.digest}"
    document = parse_document(
        source.document(descriptor), media_type=descriptor.media_type or None, what=what
    )
    if isinstance(document, Manifest):
        return document
    raise IntegrityError(f"{what}: got an index, want a manifest")


def _config(store: Store, source: Source, manifest: Manifest) -> ImageConfig:
    image_id = manifest.image_id
    with suppress(NotFoundError, IntegrityError):  # not here, or damaged: then from the source
        return store.images.config(image_id)
    return parse_config(source.document(manifest.config), f"config {image_id}")


@dataclass(frozen=True, slots=True)
class _Means:
    """Where layers are unpacked to, how, how many at once, who is told, and who does it."""

    store: Store
    options: UnpackOptions
    jobs: int
    emit: Emit
    work: Callable[[UnpackTask, Emit], LayerUnpacked] | None


def _modern(
    source: Source, means: _Means, wanted: Platform | None
) -> tuple[Source, list[LayerUnpacked]]:
    """Return a source of schema 2, and what was unpacked to make one of schema 1 that."""
    manifest = manifest_of(source)
    if manifest is None:
        return source, []
    root = source.root()
    if wanted:
        require_platform(manifest.platform, wanted, str(root.digest))
    limit = means.options.limits.unpacked_bytes
    found, missing = layers_of(means.store, source, manifest, limit=limit)
    here = tuple(dict.fromkeys(diff_id for _, diff_id in found.values()))
    identified = [(blob, UndeclaredDiffID(blob.digest)) for blob in missing]
    unpacked = _unpack(source, identified, here, means) if missing else []
    diff_ids = {layer.blob: layer.diff_id for layer in unpacked}
    found |= {blob.digest: (blob, diff_ids[blob.digest]) for blob in missing}
    return converted(source, manifest, found), unpacked


def _unpack_missing(
    source: Source,
    pairs: Sequence[tuple[Descriptor, DiffID]],
    means: _Means,
    *,
    is_first: bool,
) -> list[LayerUnpacked]:
    blobs = {diff_id: blob for blob, diff_id in pairs}
    present = tuple(diff_id for diff_id in blobs if means.store.layers.has(diff_id))
    lacking = [(blob, diff_id) for diff_id, blob in blobs.items() if diff_id not in present]
    missing: list[tuple[Descriptor, LayerIdentity]] = []
    if lacking:
        from stacker.jobs.unpack_layer import DeclaredDiffID  # not for an image without work

        missing = [(blob, DeclaredDiffID(diff_id)) for blob, diff_id in lacking]
    return _unpack(source, missing, present, means) if missing or is_first else []


def _unpack(
    source: Source,
    missing: Sequence[tuple[Descriptor, LayerIdentity]],
    present: tuple[DiffID, ...],
    means: _Means,
) -> list[LayerUnpacked]:
    listed = (MissingLayer(identity.name, blob.digest, blob.size) for blob, identity in missing)
    means.emit(LayersFound(tuple(listed), present))
    if not missing:
        return []
    from stacker.jobs.pool import run_tasks
    from stacker.jobs.unpack_layer import unpack_layer  # an image that is all there needs neither

    store = means.store
    store.staging.sweep()
    store.partials.sweep()
    _import_what_workers_need()
    tasks = [
        UnpackTask(source, store.root, blob, identity, means.options)
        for blob, identity in sorted(missing, key=lambda pair: -pair[0].size)
    ]
    done = []
    try:
        for result in run_tasks(
            tasks, means.work or unpack_layer, jobs=means.jobs, emit=means.emit
        ):
            means.emit(result)
            done.append(result)
    finally:
        if len(done) < len(tasks):
            store.staging.sweep()
    return done


def _import_what_workers_need() -> None:
    """Import once, before forking, what each worker would import by itself."""
    import isal.igzip_lib  # noqa: F401
    import xattr  # noqa: F401
    import zstandard  # noqa: F401


def _stack(store: Store, config: ImageConfig, options: UnpackOptions) -> bool:
    """Stack the layers; ``False`` when one of them is gone."""
    with ExitStack() as held:
        try:
            held.enter_context(store.layers.reading(config.diff_ids))
        except NotFoundError:
            return False
        ensure_stack(store, config, limits=options.limits, sync=options.sync)
        return True
