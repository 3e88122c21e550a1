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
from typing import TypeAlias

from stacker.errors import IntegrityError, NotFoundError
from stacker.image.config import ImageConfig, parse_config
from stacker.image.descriptor import Descriptor
from stacker.image.digest import DiffID, ImageID
from stacker.image.manifest import Index, Manifest, parse_document
from stacker.image.pairing import pair_layers
from stacker.image.platform import Platform, fits
from stacker.image.selection import choose
from stacker.source.protocol import Source
from stacker.stacked import is_complete, stacked
from stacker.store.store import Store
from stacker.unpack import LayerForm, LayerTask, LayerUnpacked, unpack_layer

Emit: TypeAlias = Callable[[object], None]
"""Sends an event to whoever called for the work."""

_INDEXES_IN_INDEXES = 8
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class LayersFound:
    """An event: of an image's layers, these are to be unpacked and those are here."""

    missing: tuple[tuple[DiffID, int], ...]
    present: tuple[DiffID, ...]


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
    form: LayerForm,
    jobs: int,
    origin: str,
    on_event: Callable[[object], None],
    must_match: bool = False,
    work: Callable[[LayerTask, Emit], LayerUnpacked] = unpack_layer,
) -> Pulled:
    """Bring an image into ``store`` and list it there.

    :param platform: which image of an index; ``must_match`` demands it of a single one, too.
    :param jobs: layers unpacked at the same time.
    :param origin: the source as the caller named it, remembered beside the image's names.
    :param on_event: called with :class:`LayersFound`, ``LayerProgress`` and ``LayerUnpacked``.
    :param work: what workers do with a layer; it may emit events of its own.
    """
    descriptor, manifest = _manifest(source, platform)
    image_id = manifest.image_id
    unpacked: list[LayerUnpacked] = []
    for _ in range(_ATTEMPTS):
        config = _config(store, source, manifest)
        if must_match:
            _check_platform(config, platform, image_id)
        pairs = pair_layers(manifest, config)
        unpacked += _unpack_missing(
            store, source, pairs=pairs, form=form, jobs=jobs, on_event=on_event, work=work
        )
        if not _stack(store, config, form):
            continue  # somebody removed a layer meanwhile
        with store.images.changing():
            if not is_complete(store, config):
                continue
            store.blobs.write(image_id, source.document(manifest.config))
            store.blobs.write(descriptor.digest, source.document(descriptor))
            store.images.add(descriptor, source.names, origin)
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


def _manifest(source: Source, platform: Platform) -> tuple[Descriptor, Manifest]:
    descriptor = source.root()
    for _ in range(_INDEXES_IN_INDEXES):
        what = f"{descriptor.digest}"
        document = parse_document(
            source.document(descriptor), media_type=descriptor.media_type or None, what=what
        )
        if isinstance(document, Manifest):
            return descriptor, document
        descriptor = _chosen(document, platform, what)
    raise IntegrityError(
        f"indexes too deep: {source.root().digest}: got more than {_INDEXES_IN_INDEXES} indexes "
        "in one another, want a manifest"
    )


def _chosen(index: Index, platform: Platform, what: str) -> Descriptor:
    return choose(index.manifests, platform, f"index {what}")


def _config(store: Store, source: Source, manifest: Manifest) -> ImageConfig:
    image_id = manifest.image_id
    with suppress(NotFoundError, IntegrityError):  # not here, or damaged: then from the source
        return store.images.config(image_id)
    return parse_config(source.document(manifest.config), f"config {image_id}")


def _check_platform(config: ImageConfig, platform: Platform, image_id: ImageID) -> None:
    if not fits(config.platform, platform):
        raise NotFoundError(
            f"no matching platform: image {image_id}: got {config.platform}, want {platform}"
        )


def _unpack_missing(
    store: Store,
    source: Source,
    *,
    pairs: Sequence[tuple[Descriptor, DiffID]],
    form: LayerForm,
    jobs: int,
    on_event: Callable[[object], None],
    work: Callable[[LayerTask, Emit], LayerUnpacked],
) -> list[LayerUnpacked]:
    blobs = {diff_id: blob for blob, diff_id in pairs}
    missing = {d: blob for d, blob in blobs.items() if not store.layers.has(d)}
    on_event(
        LayersFound(
            tuple((diff_id, blob.size) for diff_id, blob in missing.items()),
            tuple(diff_id for diff_id in blobs if diff_id not in missing),
        )
    )
    if not missing:
        return []
    from stacker.workers import worked  # an image that is all there needs none

    store.staging.sweep()
    _import_what_workers_need()
    tasks = [
        LayerTask(source, store.root, blob, diff_id, form)
        for diff_id, blob in sorted(missing.items(), key=lambda item: -item[1].size)
    ]
    done = []
    try:
        for result in worked(tasks, work, jobs=jobs, on_event=on_event):
            on_event(result)
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


def _stack(store: Store, config: ImageConfig, form: LayerForm) -> bool:
    """Stack the layers; ``False`` when one of them is gone."""
    with ExitStack() as held:
        try:
            held.enter_context(store.layers.reading(config.diff_ids))
        except NotFoundError:
            return False
        stacked(store, config, form.whiteouts)
        return True
