"""Removing an image against whoever mounts, unpacks or shares it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from stacker.errors import IntegrityError, LockedError, NotFoundError
from stacker.image.digest import ImageID
from stacker.image.platform import Platform
from stacker.jobs.tasks import UnpackOptions
from stacker.layer.metadata import SQUASH
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.operations.pull import pull_image
from stacker.operations.remove import parts_of, remove_image
from stacker.operations.stack import chain_id_of, ensure_stack
from stacker.operations.usage import images_usage, store_usage
from stacker.source.open import open_source
from stacker.store.store import Store
from tests.support import images
from tests.support.tars import dir, file, tar  # noqa: A004 - the word for it

OPTIONS = UnpackOptions(WhiteoutFormat.USER, SQUASH)
A, B = tar(dir("d/"), file("d/a", b"1" * 10)), tar(file("d/b", b"2" * 100))
"""B implies the directory that A has, so that their stack has a fixup."""

Bring = Callable[..., ImageID]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


@pytest.fixture
def bring(store: Store, tmp_path: Path) -> Bring:
    """Give what makes an image of layers and pulls it."""

    def pulled(name: str, *layers: bytes, author: str = "") -> ImageID:
        app = images.layout(
            tmp_path / name, layers, name=name, config=lambda config: config.update(author=author)
        )
        with open_source(app.source, spool=tmp_path) as source:
            done = pull_image(
                store,
                source,
                platform=Platform("linux", "amd64"),
                options=OPTIONS,
                jobs=1,
                origin=name,
                emit=lambda _: None,
            )
        return done.image_id

    return pulled


def test_an_image_that_is_being_read_stays(store: Store, bring: Bring) -> None:
    image = bring("app", A, B)
    with store.images.reading(image) as config:
        with pytest.raises(LockedError, match="mounts or unpacks"):
            remove_image(store, image)
        assert ensure_stack(store, config).directories
    assert [found.id for found in store.images.all()] == [image]
    remove_image(store, image)
    assert store.images.all() == []


def test_a_layer_that_is_being_read_stays(store: Store, bring: Bring) -> None:
    image = bring("app", A, B)
    config = store.images.config(image)
    with store.layers.reading(config.diff_ids[:1]), pytest.raises(LockedError, match="layer"):
        remove_image(store, image)
    assert all(map(store.layers.has, config.diff_ids))
    assert os.listdir(store.staging.root) == []


def test_what_was_removed_is_not_there_to_be_read(store: Store, bring: Bring) -> None:
    image = bring("app", A)
    diff_ids = store.images.config(image).diff_ids
    remove_image(store, image)
    with pytest.raises(NotFoundError), store.images.reading(image):
        pass
    with pytest.raises(NotFoundError), store.layers.reading(diff_ids):
        pass
    with pytest.raises(NotFoundError):
        remove_image(store, image)


def test_a_chain_that_another_image_has_stays(store: Store, bring: Bring) -> None:
    first, second = bring("first", A, B, author="1"), bring("second", A, B, author="2")
    chain = chain_id_of(store.images.config(first))
    gone = remove_image(store, first)
    assert (gone.layers, gone.chains) == (frozenset(), frozenset())
    assert store.chains.has(chain)
    assert remove_image(store, second).chains == {chain}
    assert not store.chains.has(chain)


def test_only_what_nobody_else_has_goes(store: Store, bring: Bring) -> None:
    both, one = bring("both", A, B), bring("one", A)
    shared = store.images.config(one).diff_ids[0]
    parts = parts_of(store, store.images.all())
    assert len(parts.layers) == len(parts.chains) == 2
    gone = remove_image(store, both)
    assert gone.layers == parts.layers - {shared}
    assert store.layers.has(shared)
    assert list(store.layers.all()) == [shared]


def test_an_image_that_is_pulled_again_after_its_removal_is_whole(
    store: Store, bring: Bring
) -> None:
    image = bring("app", A, B)
    remove_image(store, image)
    assert bring("app", A, B) == image
    (usage,) = images_usage(store)
    assert (usage.unique, usage.shared, usage.missing) == (110, 0, 0)


def test_a_layer_that_is_missing_is_counted_and_not_measured(store: Store, bring: Bring) -> None:
    image = bring("app", A, B)
    with store.staging.trash() as discard:
        discard([store.layers.paths(store.images.config(image).diff_ids[1]).root])
    (usage,) = images_usage(store)
    assert (usage.unique, usage.missing) == (10, 1)
    remove_image(store, image)
    assert list(store.layers.all()) == []


def test_a_damaged_record_hides_no_image_and_can_be_got_rid_of(store: Store, bring: Bring) -> None:
    image = bring("app", A, B)
    store.layers.paths(store.images.config(image).diff_ids[1]).record.write_bytes(b"")
    (usage,) = images_usage(store)
    assert (usage.unique, usage.missing) == (10, 1)
    with pytest.raises(IntegrityError, match="damaged layer record") as caught:
        store.layers.record(store.images.config(image).diff_ids[1])
    assert "stacker rm" in (caught.value.hint or "")
    remove_image(store, image)
    assert bring("app", A, B) == image
    assert images_usage(store)[0].missing == 0


def test_what_no_image_lists_is_told_apart(store: Store, bring: Bring) -> None:
    image = bring("app", A, B)
    with store.images.write_lock():
        store.images.remove(image)
    usage = store_usage(store)
    assert (usage.layers, usage.unlisted, usage.images) == (110, 110, ())
    assert usage.skeletons > 0
    assert usage.total == usage.layers + usage.skeletons + usage.blobs + usage.chains
