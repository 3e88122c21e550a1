"""Removal of images, and the disk usage of the store."""

from __future__ import annotations

import os
import resource

import pytest

from stacker.errors import IntegrityError, LockedError, NotFoundError
from stacker.image.digest import ImageID
from stacker.operations.remove import parts_of, remove_image, remove_images
from stacker.operations.stack import chain_id_of, ensure_stack
from stacker.operations.usage import images_usage, store_usage
from stacker.store.store import Store
from tests.support.images import Pull
from tests.support.tars import dir, file, tar  # noqa: A004 - tests write `dir` in tars

A, B = tar(dir("d/"), file("d/a", b"1" * 10)), tar(file("d/b", b"2" * 100))
"""B implies the directory that A has, so their stack has a fixup."""


def test_image_in_use_is_not_removed(store: Store, pull: Pull) -> None:
    image = pull("app", A, B)
    with store.images.reading(image) as config:
        with pytest.raises(LockedError, match="mounts or unpacks"):
            remove_image(store, image)
        assert ensure_stack(store, config).directories
    assert [found.id for found in store.images.all()] == [image]
    remove_image(store, image)
    assert store.images.all() == []


def test_image_with_a_layer_in_use_is_not_removed(store: Store, pull: Pull) -> None:
    image = pull("app", A, B)
    config = store.images.config(image)
    with store.layers.reading(config.diff_ids[:1]), pytest.raises(LockedError, match="layer"):
        remove_image(store, image)
    assert all(map(store.layers.has, config.diff_ids))
    assert os.listdir(store.staging.root) == []


def test_removed_image_cannot_be_read(store: Store, pull: Pull) -> None:
    image = pull("app", A)
    diff_ids = store.images.config(image).diff_ids
    remove_image(store, image)
    with pytest.raises(NotFoundError), store.images.reading(image):
        pass
    with pytest.raises(NotFoundError), store.layers.reading(diff_ids):
        pass
    with pytest.raises(NotFoundError):
        remove_image(store, image)


def test_image_in_use_keeps_the_images_before_it(store: Store, pull: Pull) -> None:
    first, second = pull("first", A), pull("second", B)
    with store.images.reading(second), pytest.raises(LockedError, match=str(second)):
        remove_images(store, [first, second])
    missing = ImageID("sha256", "0" * 64)
    with pytest.raises(NotFoundError, match="no such image: sha256:000"):
        remove_images(store, [first, missing])
    assert {image.id for image in store.images.all()} == {first, second}
    assert os.listdir(store.staging.root) == []


def test_layer_of_two_removed_images_is_removed_with_the_last(store: Store, pull: Pull) -> None:
    first, second = pull("first", A), pull("second", A, B)
    removed = remove_images(store, [first, second, first])
    assert [len(parts.layers) for parts in removed.images.values()] == [0, 2]
    assert not list(store.layers.all())
    assert store.images.all() == []


def test_chain_of_another_image_is_kept(store: Store, pull: Pull) -> None:
    first, second = pull("first", A, B, author="1"), pull("second", A, B, author="2")
    chain = chain_id_of(store.images.config(first))
    removed = remove_image(store, first)
    assert (removed.layers, removed.chains) == (frozenset(), frozenset())
    assert store.chains.path(chain).exists()
    assert remove_image(store, second).chains == {chain}
    assert not store.chains.path(chain).exists()


def test_layer_of_another_image_is_kept(store: Store, pull: Pull) -> None:
    both, one = pull("both", A, B), pull("one", A)
    shared = store.images.config(one).diff_ids[0]
    parts = parts_of(store, store.images.all())
    assert len(parts.layers) == len(parts.chains) == 2
    removed = remove_image(store, both)
    assert removed.layers == parts.layers - {shared}
    assert store.layers.has(shared)
    assert list(store.layers.all()) == [shared]


def test_removed_image_can_be_pulled_again(store: Store, pull: Pull) -> None:
    image = pull("app", A, B)
    remove_image(store, image)
    assert pull("app", A, B) == image
    (usage,) = images_usage(store)
    assert (usage.unique, usage.shared, usage.missing) == (110, 0, 0)


def test_missing_layer_is_counted_but_has_no_size(store: Store, pull: Pull) -> None:
    image = pull("app", A, B)
    with store.staging.trash() as discard:
        discard([store.layers.paths(store.images.config(image).diff_ids[1]).root])
    (usage,) = images_usage(store)
    assert (usage.unique, usage.missing) == (10, 1)
    remove_image(store, image)
    assert list(store.layers.all()) == []


def test_image_with_a_damaged_record_is_listed_and_can_be_removed(store: Store, pull: Pull) -> None:
    image = pull("app", A, B)
    store.layers.paths(store.images.config(image).diff_ids[1]).record.write_bytes(b"")
    (usage,) = images_usage(store)
    assert (usage.unique, usage.missing) == (10, 1)
    with pytest.raises(IntegrityError, match="damaged layer record") as caught:
        store.layers.record(store.images.config(image).diff_ids[1])
    assert "stacker rm" in (caught.value.hint or "")
    remove_image(store, image)
    assert pull("app", A, B) == image
    assert images_usage(store)[0].missing == 0


def test_layers_without_an_image_are_unlisted(store: Store, pull: Pull) -> None:
    image = pull("app", A, B)
    with store.images.write_lock():
        store.images.remove(image)
    usage = store_usage(store)
    assert 110 <= usage.unlisted <= usage.layers
    assert usage.images == ()
    assert usage.skeletons > 0
    pull("app", A, B)
    assert store_usage(store).unlisted == 0


def test_more_images_than_open_files_are_removed(store: Store, pull: Pull) -> None:
    every = [pull(f"app{number}", tar(file(f"f{number}", b""))) for number in range(30)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 25, hard))
    try:
        assert len(remove_images(store, every).images) == 30
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert store.images.all() == []
