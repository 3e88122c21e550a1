"""Verify the images of a store: their documents, their layers and their chains.

A store and images come in; a result for each layer and chain goes out.  Worker processes verify the
layers, and keep checksums of the sound ones.  This module replaces nothing; `repair` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from stacker.errors import IntegrityError, LockedError, NotFoundError, StackerError
from stacker.jobs.pool import run_tasks
from stacker.jobs.verify_index import keep_index_checksum
from stacker.jobs.verify_layer import LayerVerified, VerifyTask, is_usual, verify_layer
from stacker.layer.checksums import is_damaged
from stacker.operations.stack import chain_id_of
from stacker.operations.verify_chain import ChainTask, ChainVerified, verify_chain

if TYPE_CHECKING:
    from pathlib import Path

    from stacker.events import Emit
    from stacker.image.digest import ChainID, DiffID, ImageID
    from stacker.store.store import Store

_SECONDS_PER_ENTRY: Final = 10e-6  # only their ratio matters: long tasks start first
_SECONDS_PER_BYTE: Final = 1e-9
_MISSING: Final = "the layer is not in the store"
_ATTEMPTS: Final = 10  # each but the last needs a removal or a pull at the same moment


@dataclass(frozen=True, slots=True)
class ImageVerified:
    """An image, its layers base first, and the damage of its own documents.

    :param chain_id: the ID of its chain; ``None`` if its config is damaged.
    """

    image_id: ImageID
    diff_ids: tuple[DiffID, ...]
    chain_id: ChainID | None
    damage: str | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of a verification; each layer is listed once, in the order of the images.

    :param chains: the chains of the images whose layers are all sound.
    :param rewritten: the damaged files of checksums that were written again.
    """

    images: tuple[ImageVerified, ...]
    layers: tuple[LayerVerified, ...]
    chains: tuple[ChainVerified, ...]
    rewritten: tuple[Path, ...] = ()

    @property
    def damaged(self) -> tuple[LayerVerified, ...]:
        """The layers that do not match their diff_id."""
        return tuple(layer for layer in self.layers if not layer.is_sound)

    @property
    def damaged_chains(self) -> tuple[ChainVerified, ...]:
        """The stored chains that differ from what stacker builds from their layers."""
        return tuple(chain for chain in self.chains if not chain.is_sound)

    @property
    def is_sound(self) -> bool:
        """Whether nothing is damaged."""
        return (
            not self.damaged
            and not self.damaged_chains
            and all(image.damage is None for image in self.images)
        )


def verify_images(
    store: Store,
    image_ids: Iterable[ImageID],
    *,
    contents: bool,
    jobs: int,
    emit: Emit,
    unlisted: bool = False,
) -> Verification:
    """Verify images, their layers, and the chains of images whose layers are all sound.

    An image that another process removes meanwhile is not in the result.

    :param contents: read all file contents, too; without it only attributes are compared.
    :param jobs: layers verified at the same time.
    :param emit: called with `PackProgress`.
    :param unlisted: verify the layers that no image lists, too.
    :raises LockedError: other processes remove and pull the same images again and again.
    """
    store.make_run_directory()
    chosen = tuple(dict.fromkeys(image_ids))
    for _ in range(_ATTEMPTS):
        found = _verify_once(
            store, chosen, contents=contents, jobs=jobs, emit=emit, unlisted=unlisted
        )
        if found.is_sound:
            return found
        present = {image.id for image in store.images.all()}
        if not _is_outdated(store, found, present):
            return found
        chosen = tuple(image_id for image_id in chosen if image_id in present)
    raise LockedError(
        "cannot verify: other processes remove and pull the same images",
        hint="run the command again when the other processes are done",
    )


def _is_outdated(store: Store, found: Verification, present: set[ImageID]) -> bool:
    """Return whether a removal or a pull explains what is missing.

    :param present: the images that the store lists now.
    """
    listed = {
        each for image in found.images if image.image_id in present for each in image.diff_ids
    }
    return any(
        image.damage is not None
        and (image.image_id not in present or _documents(store, image.image_id).damage is None)
        for image in found.images
    ) or any(
        layer.damage == _MISSING
        and (layer.diff_id not in listed or store.layers.has(layer.diff_id))
        for layer in found.layers
    )


def _verify_once(
    store: Store,
    image_ids: Iterable[ImageID],
    *,
    contents: bool,
    jobs: int,
    emit: Emit,
    unlisted: bool,
) -> Verification:
    images = tuple(_documents(store, image_id) for image_id in image_ids)
    wanted = dict.fromkeys(diff_id for image in images for diff_id in image.diff_ids)
    if unlisted:
        wanted |= dict.fromkeys(store.layers.all())
    damaged = _damaged_checksums(store, wanted, images)
    layers = verify_layers(store, [*wanted], contents=contents, jobs=jobs, emit=emit)
    found = {layer.diff_id: layer for layer in layers}
    sound = {layer.diff_id for layer in found.values() if layer.is_sound}
    usable = [image for image in images if sound.issuperset(image.diff_ids)]
    chains = _verify_chains(store, usable, contents=contents, jobs=jobs, emit=emit)
    rewritten = tuple(path for path in damaged if path.exists() and not is_damaged(path))
    return Verification(images, tuple(found[each] for each in wanted), chains, rewritten)


def _damaged_checksums(
    store: Store, diff_ids: Iterable[DiffID], images: Iterable[ImageVerified]
) -> list[Path]:
    paths = [store.layers.paths(diff_id) for diff_id in diff_ids]
    files = [file for each in paths for file in (each.checksums, each.index_checksum)]
    chains = dict.fromkeys(image.chain_id for image in images)
    files += [store.chains.index_checksum(each) for each in chains if each is not None]
    return [file for file in files if is_damaged(file)]


def _verify_chains(
    store: Store, images: Sequence[ImageVerified], *, contents: bool, jobs: int, emit: Emit
) -> tuple[ChainVerified, ...]:
    if not images:  # perhaps there is no store
        return ()
    every = dict.fromkeys(diff_id for image in images for diff_id in image.diff_ids)
    with (
        store.images.reading_present(image.image_id for image in images) as listed,
        store.layers.reading_present(every) as present,
    ):
        chains = {
            image.chain_id: image.diff_ids
            for image in images
            if image.image_id in listed and present.issuperset(image.diff_ids)  # still there
        }
        tasks = [
            ChainTask(store, chain_id, diff_ids, contents)
            for chain_id, diff_ids in chains.items()
            if chain_id is not None
        ]
        done = run_tasks(
            tasks,
            verify_chain,
            jobs=jobs,
            emit=emit,
            what=lambda task: f"chain {task.chain_id}",
        )
        found = {chain.chain_id: chain for chain in done}
    return tuple(found[task.chain_id] for task in tasks)


def verify_layers(
    store: Store,
    diff_ids: Sequence[DiffID],
    *,
    contents: bool,
    jobs: int,
    emit: Emit,
) -> Iterable[LayerVerified]:
    """Verify layers; yield a result for each, in any order."""
    with store.layers.reading_present(diff_ids) as present:
        tasks: list[tuple[float, VerifyTask]] = []
        for diff_id in diff_ids:
            if diff_id in present:
                tasks += _tasks(store, diff_id, contents=contents)
            else:
                yield LayerVerified(diff_id, damage=_MISSING)
        tasks.sort(key=lambda each: -each[0])
        parts: dict[DiffID, LayerVerified] = {}
        left = Counter(task.diff_id for _, task in tasks)
        largest_first = [each for _, each in tasks]
        for part in run_tasks(
            largest_first,
            verify_layer,
            jobs=jobs,
            emit=emit,
            what=lambda task: f"layer {task.diff_id}",
        ):
            diff_id = part.diff_id
            left[diff_id] -= 1
            parts[diff_id] = _joined(store, parts[diff_id], part) if diff_id in parts else part
            if not left[diff_id]:
                yield parts[diff_id]


def _joined(store: Store, one: LayerVerified, other: LayerVerified) -> LayerVerified:
    """Join the results of a layer's tasks, and keep the checksum of an index that both prove."""
    whole = one.joined(other)
    if whole.is_sound and whole.index is not None:
        keep_index_checksum(store, store.layers.paths(whole.diff_id).index_checksum, whole.index)
    return whole


def _tasks(store: Store, diff_id: DiffID, *, contents: bool) -> Iterator[tuple[float, VerifyTask]]:
    """Yield the tasks that verify a layer, with an estimate of their seconds.

    A diff_id is one SHA-256, so attributes are the only part that can have a task of its own.  A
    usual tree has one task, since a second one would look up each path again.
    """
    try:
        record = store.layers.record(diff_id)
        entries, size = record.entries * _SECONDS_PER_ENTRY, record.tar_bytes * _SECONDS_PER_BYTE
        is_one = is_usual(record) and store.layers.paths(diff_id).forms == ("tree",)
    except (StackerError, OSError):
        entries = size = 0
        is_one = False
    if contents and is_one:
        yield entries + size, VerifyTask(store, diff_id)
        return
    yield entries, VerifyTask(store, diff_id, contents=False, trusted=contents)
    if contents:
        yield entries + size, VerifyTask(store, diff_id, attributes=False)


def _documents(store: Store, image_id: ImageID) -> ImageVerified:
    """Verify the config and the manifests of an image: the store checks each as it reads it."""
    try:
        config = store.images.config(image_id)
    except (IntegrityError, NotFoundError) as error:
        return ImageVerified(image_id, (), None, error.message)
    known = ImageVerified(image_id, config.diff_ids, chain_id_of(config))
    try:
        for image in store.images.all():
            if image.id == image_id:
                for manifest in image.manifests:
                    store.images.manifest(manifest)
    except StackerError as error:
        return replace(known, damage=error.message)
    return known
