"""Verify the images of a store: their documents, and every byte and attribute of their layers.

A store and images come in; a result for each layer goes out.  Each layer is verified in
a worker process.  Nothing in the store is changed; `repair` does that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, NotFoundError, StackerError
from stacker.jobs.pool import run_tasks
from stacker.jobs.verify_layer import LayerVerified, VerifyTask, verify_layer

if TYPE_CHECKING:
    from stacker.events import Emit
    from stacker.image.digest import DiffID, ImageID
    from stacker.store.store import Store


@dataclass(frozen=True, slots=True)
class ImageVerified:
    """An image, its layers base first, and what is wrong with its own documents."""

    image_id: ImageID
    diff_ids: tuple[DiffID, ...]
    damage: str | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """What verifying found; each layer is listed once, in the order of the images."""

    images: tuple[ImageVerified, ...]
    layers: tuple[LayerVerified, ...]

    @property
    def damaged(self) -> tuple[LayerVerified, ...]:
        """The layers that are not what their diff_id says."""
        return tuple(layer for layer in self.layers if not layer.is_sound)

    @property
    def is_sound(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damaged and all(image.damage is None for image in self.images)


def verify_images(
    store: Store,
    image_ids: Iterable[ImageID],
    *,
    contents: bool,
    jobs: int,
    emit: Emit,
    unlisted: bool = False,
) -> Verification:
    """Verify images and their layers.

    :param contents: read all file contents, too; without it only attributes are compared.
    :param jobs: layers verified at the same time.
    :param emit: called with `PackProgress`.
    :param unlisted: verify the layers that no image lists, too.
    """
    images = tuple(_documents(store, image_id) for image_id in dict.fromkeys(image_ids))
    wanted = dict.fromkeys(diff_id for image in images for diff_id in image.diff_ids)
    if unlisted:
        wanted |= dict.fromkeys(store.layers.all())
    found = {each.diff_id: each for each in verify_layers(store, [*wanted], contents, jobs, emit)}
    return Verification(images, tuple(found[diff_id] for diff_id in wanted))


def verify_layers(
    store: Store,
    diff_ids: Sequence[DiffID],
    contents: bool,  # noqa: FBT001 - passed on by name
    jobs: int,
    emit: Emit,
) -> Iterable[LayerVerified]:
    """Verify layers; yield a result for each, in any order."""
    with store.layers.reading_present(diff_ids) as present:
        for diff_id in diff_ids:
            if diff_id not in present:
                yield LayerVerified(diff_id, damage="the layer is not in the store")
        tasks = [VerifyTask(store.root, each, contents) for each in diff_ids if each in present]
        yield from run_tasks(tasks, verify_layer, jobs=jobs, emit=emit)


def _documents(store: Store, image_id: ImageID) -> ImageVerified:
    """Verify the config and the manifests of an image: the store checks each as it reads it."""
    try:
        diff_ids = store.images.config(image_id).diff_ids
    except (IntegrityError, NotFoundError) as error:
        return ImageVerified(image_id, (), error.message)
    try:
        for image in store.images.all():
            if image.id == image_id:
                for manifest in image.manifests:
                    store.images.manifest(manifest)
    except StackerError as error:
        return ImageVerified(image_id, diff_ids, error.message)
    return ImageVerified(image_id, diff_ids)
