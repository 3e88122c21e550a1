"""Replace the damaged layers of images, from stored blobs or from the sources of the images.

A store, an image, and a function that opens a source come in; the name of the source that supplied
the layers goes out.  A damaged layer or chain is exchanged for a new one in one step.  A mount
that uses the old one keeps it until it is unmounted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, NotFoundError, StackerError, shell_word
from stacker.image.config import pair_layers
from stacker.image.digest import ChainID, DiffID
from stacker.image.location import STDIN, is_archive_on
from stacker.jobs.pool import run_tasks
from stacker.jobs.seal_layer import SealTask, seal_layer
from stacker.jobs.tasks import UnpackTask
from stacker.jobs.unpack_layer import DeclaredDiffID, unpack_layer
from stacker.operations.push import StoredImageSource
from stacker.operations.stack import chain_id_of, ensure_stack
from stacker.operations.verify import verify_images

if TYPE_CHECKING:
    from stacker.events import Emit
    from stacker.image.descriptor import Descriptor
    from stacker.image.digest import ImageID
    from stacker.jobs.tasks import UnpackOptions
    from stacker.layer.paths import Form
    from stacker.source.protocol import Source
    from stacker.store.images import StoredImage
    from stacker.store.store import Store

OpenSource = Callable[[str], AbstractContextManager["Source"]]
"""Opens a source by the name that `stacker pull` was given."""


@dataclass(frozen=True, slots=True)
class Repair:
    """How layers are replaced.

    :param open_source: opens the sources that an image was pulled from.
    :param options: how layers are unpacked.
    :param jobs: layers unpacked at the same time.
    :param emit: called with the events of unpacking.
    """

    open_source: OpenSource
    options: UnpackOptions
    jobs: int
    emit: Emit


@dataclass(frozen=True, slots=True)
class Repaired:
    """The result of a repair.

    :param layers: the replaced layers, each with the source that had it.
    :param chains: the chains that were built again because they were damaged.
    :param rewritten: the damaged files of checksums that were written again.
    """

    layers: Mapping[DiffID, str] = field(default_factory=dict, hash=False)
    chains: tuple[ChainID, ...] = ()
    rewritten: tuple[Path, ...] = ()


def repair_images(
    store: Store, image_ids: Iterable[ImageID], repair: Repair, *, contents: bool
) -> Repaired:
    """Verify images, and replace their damaged layers and chains.

    :param contents: read the contents of all files, too; otherwise compare attributes only.
    :raises IntegrityError: no source has the layers.
    """
    layers, chains, rewritten = dict[DiffID, str](), list[ChainID](), list[Path]()
    for image_id in dict.fromkeys(image_ids):
        found = verify_images(
            store, [image_id], contents=contents, jobs=repair.jobs, emit=lambda _: None
        )
        rewritten += found.rewritten
        damaged = [layer.diff_id for layer in found.damaged]
        if damaged:
            origin = replace_layers(store, image_id, damaged, repair)
            layers |= dict.fromkeys(damaged, origin)
        if damaged or found.damaged_chains:
            chain_id = rebuild_chain(store, image_id)
            chains += [chain_id] if found.damaged_chains else []
    return Repaired(layers, tuple(chains), tuple(rewritten))


def replace_layers(
    store: Store, image_id: ImageID, diff_ids: Sequence[DiffID], repair: Repair
) -> str:
    """Unpack layers of an image again, whether or not the store has them.

    Blobs that the store kept come first, then each source that the image was pulled from.  The
    blobs are those of the image's own manifest, so a tag that has moved does no harm.

    :returns: the name of the source that had the layers.
    :raises NotFoundError: another process has removed the image.
    :raises IntegrityError: no source has them; the message gives the reason of each.
    """
    store.require_writable()
    with store.images.read_lock():
        images = store.images.all()
        found = [image for image in images if image.id == image_id]
        chains = _chains(store, images, diff_ids)
    with store.chains.invalidated(chains):
        return _replace_layers(store, image_id, found, diff_ids, repair)


def rebuild_chain(store: Store, image_id: ImageID) -> ChainID:
    """Build the chain of an image again, and exchange it; a mount that uses it keeps the old one.

    :raises NotFoundError: a layer is not in the store.
    """
    with store.images.reading(image_id) as config, store.layers.reading(config.diff_ids):
        chain_id = chain_id_of(config)
        with store.chains.invalidated([chain_id]):
            pass
        ensure_stack(store, config)
    return chain_id


def _chains(
    store: Store, images: Iterable[StoredImage], diff_ids: Iterable[DiffID]
) -> list[ChainID]:
    """Return the chains of images that use one of these layers."""
    configs = []
    for image in images:
        with suppress(StackerError):  # a damaged config has no chain
            configs.append(store.images.config(image.id))
    return [chain_id_of(config) for config in configs if set(diff_ids) & set(config.diff_ids)]


def _replace_layers(
    store: Store,
    image_id: ImageID,
    found: Sequence[StoredImage],
    diff_ids: Sequence[DiffID],
    repair: Repair,
) -> str:
    if not found:  # another process removed it since the caller looked it up
        raise NotFoundError(
            f"no such image: {image_id}", hint="`stacker images` lists the images in the store"
        )
    reasons = []
    for image in found:
        for manifest in image.manifests:
            blobs = _blobs(store, image_id, manifest, diff_ids)
            for name, opened in _sources(store, image, manifest, repair.open_source):
                try:
                    with opened as source:
                        _unpack(store, source, blobs, repair)
                except StackerError as error:
                    reasons.append(f"{name}: {error.message}")
                else:
                    return name
    why = "; ".join(reasons) or "the store records no source"
    raise IntegrityError(
        f"cannot repair: image {image_id}: {why}",
        hint=_hint(found),
    )


def _hint(found: Sequence[StoredImage]) -> str:
    origins = [origin for image in found for origin in _lasting(image)]
    if not origins:
        return "pull the image again with `stacker pull`"
    return f"`stacker pull {shell_word(origins[0])}`"


def _lasting(image: StoredImage) -> list[str]:
    """Return the sources of an image that can be read again: not stdin."""
    return [origin for origin in image.sources if not is_archive_on(origin, STDIN)]


def _blobs(
    store: Store, image_id: ImageID, manifest: Descriptor, diff_ids: Sequence[DiffID]
) -> list[tuple[Descriptor, DiffID]]:
    pairs = pair_layers(store.images.manifest(manifest), store.images.config(image_id))
    by_diff_id = {diff_id: blob for blob, diff_id in pairs}
    return [(by_diff_id[diff_id], diff_id) for diff_id in diff_ids]


def _sources(
    store: Store, image: StoredImage, manifest: Descriptor, open_source: OpenSource
) -> Iterator[tuple[str, AbstractContextManager[Source]]]:
    yield "kept blobs", nullcontext(StoredImageSource(store.root, manifest, image.names))
    for origin in _lasting(image):
        yield origin, open_source(origin)


def _unpack(
    store: Store, source: Source, blobs: Sequence[tuple[Descriptor, DiffID]], repair: Repair
) -> None:
    tasks = [
        UnpackTask(
            source,
            store,
            blob,
            DeclaredDiffID(diff_id, replace=True),
            replace(repair.options, form=_form(store, diff_id)),
        )
        for blob, diff_id in blobs
    ]
    for result in run_tasks(
        tasks, unpack_layer, jobs=repair.jobs, emit=repair.emit, what=lambda task: task.what
    ):
        repair.emit(result)


def _form(store: Store, diff_id: DiffID) -> Form | None:
    """Return the form that a layer has; ``None`` if it is missing."""
    return next(iter(store.layers.paths(diff_id).forms), None)


def seal_layers(store: Store, image_ids: Sequence[ImageID], *, jobs: int) -> int:
    """Enable fs-verity on the files of images that were verified.

    :param jobs: layers sealed at the same time.
    :returns: the number of sealed files.
    :raises UnsupportedError: the filesystem or the kernel has no fs-verity.
    """
    configs = [store.images.config(image_id) for image_id in image_ids]
    diff_ids = [*dict.fromkeys(diff_id for config in configs for diff_id in config.diff_ids)]
    with store.layers.reading(diff_ids):
        tasks = [SealTask(store, diff_id) for diff_id in diff_ids]
        return sum(run_tasks(tasks, seal_layer, jobs=jobs, emit=lambda _: None))
