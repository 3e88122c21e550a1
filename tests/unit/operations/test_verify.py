"""Verification beside processes that remove and pull images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar
from unittest.mock import Mock

import pytest

from stacker.errors import LockedError, NotFoundError
from stacker.operations import verify as verify_module
from stacker.operations import verify_chain as verify_chain_module
from stacker.operations.remove import remove_image
from stacker.operations.repair import replace_layers
from stacker.operations.stack import build_form
from stacker.operations.verify import Verification, verify_images
from stacker.store.images import ImageStore
from stacker.store.layers import LayerStore
from tests.support.tars import dir as folder
from tests.support.tars import file, symlink, tar

if TYPE_CHECKING:
    from stacker.events import Emit
    from stacker.image.config import ImageConfig
    from stacker.image.digest import DiffID, ImageID
    from stacker.layer.paths import Stack
    from stacker.store.store import Store
    from tests.support.images import Pull

A, B = tar(file("a", b"1")), tar(file("b", b"2"))
LINK = tar(symlink("lib", "usr/lib"), folder("usr/lib/"))
BELOW = tar(file("lib/x", b"below a symbolic link"))
"""The chain of `LINK` and this layer has a directory of its own."""
Task = TypeVar("Task")
Result = TypeVar("Result")


def verify(store: Store, *image_ids: ImageID) -> Verification:
    return verify_images(
        store, image_ids, contents=False, jobs=1, emit=lambda _: None, unlisted=True
    )


def before_the_locks(monkeypatch: pytest.MonkeyPatch, *steps: Callable[[], object]) -> None:
    """Run a step before each time that layers are locked, in turn, as another process might."""
    real, left = LayerStore.reading_present, list(steps)

    @contextmanager
    def reading_present(layers: LayerStore, diff_ids: Iterable[DiffID]) -> Iterator[set[DiffID]]:
        if left:
            left.pop(0)()
        with real(layers, diff_ids) as present:
            yield present

    monkeypatch.setattr(LayerStore, "reading_present", reading_present)


def test_image_that_is_removed_during_a_verification_is_not_damaged(
    store: Store, pull: Pull, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pull("first", A), pull("second", A, B)
    before_the_locks(monkeypatch, lambda: remove_image(store, second))
    found = verify(store, first, second)
    assert found.is_sound
    assert [image.image_id for image in found.images] == [first]


def test_image_that_is_pulled_again_during_a_verification_is_verified(
    store: Store, pull: Pull, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = pull("app", A)
    real = LayerStore.has
    before_the_locks(monkeypatch, lambda: monkeypatch.setattr(LayerStore, "has", absent))

    def absent(layers: LayerStore, diff_id: DiffID) -> bool:
        monkeypatch.setattr(LayerStore, "has", real)
        return False

    found = verify(store, image)
    assert found.is_sound
    assert [each.image_id for each in found.images] == [image]


def test_image_whose_config_another_process_is_pulling_again_is_not_damaged(
    store: Store, pull: Pull, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, real = pull("app", A), ImageStore.config

    def absent(images: ImageStore, image_id: ImageID) -> ImageConfig:
        monkeypatch.setattr(ImageStore, "config", real)
        raise NotFoundError(f"no such image: {image_id}")

    monkeypatch.setattr(ImageStore, "config", absent)
    found = verify(store, image)
    assert found.is_sound
    assert [each.image_id for each in found.images] == [image]


def test_image_stays_until_its_chain_is_verified(
    store: Store, pull: Pull, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layers of the image stay in any case, since another image has them."""
    images = pull("app", LINK, BELOW), pull("more", LINK, BELOW, B)
    refused: list[str] = []

    def remove_first(*arguments: object, **options: object) -> Stack:
        """Build a stack, and before that remove an image, as another process might."""
        with pytest.raises(LockedError) as caught:
            remove_image(store, images[0])
        refused.append(caught.value.message)
        return build_form(*arguments, **options)  # type: ignore[arg-type] # passed on

    monkeypatch.setattr(verify_module, "run_tasks", in_this_process)
    monkeypatch.setattr(verify_chain_module, "build_form", remove_first)
    found = verify(store, *images)
    assert found.damaged_chains == ()
    assert refused[0].startswith(f"image in use: {images[0]}")
    remove_image(store, images[0])


def in_this_process(
    tasks: Iterable[Task], work: Callable[[Task, Emit], Result], **_: object
) -> list[Result]:
    """Run tasks as `run_tasks` does, without workers."""
    return [work(task, lambda _: None) for task in tasks]


def test_repair_of_an_image_that_another_process_removed_finds_no_image(
    store: Store, pull: Pull
) -> None:
    image = pull("app", A)
    (diff_id,) = store.layers.all()
    remove_image(store, image)
    with pytest.raises(NotFoundError, match=f"no such image: {image}"):
        replace_layers(store, image, [diff_id], Mock())


def test_layer_that_is_missing_from_a_listed_image_is_damage(store: Store, pull: Pull) -> None:
    image = pull("app", A)
    (diff_id,) = store.layers.all()
    with store.staging.trash() as discard:
        discard([store.layers.paths(diff_id).root])
    found = verify(store, image)
    assert [layer.damage for layer in found.damaged] == ["the layer is not in the store"]
