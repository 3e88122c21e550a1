"""Pulls: what is unpacked, what is reported, and what happens if another process interferes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stacker.errors import IntegrityError, NotFoundError
from stacker.events import Emit, Event, ImagePulled, LayersFound, LayerUnpacked
from stacker.image import mediatype
from stacker.image.config import ImageConfig
from stacker.image.descriptor import Descriptor
from stacker.image.digest import DiffID, Digest
from stacker.image.platform import Platform
from stacker.jobs.tasks import UnpackOptions, UnpackTask
from stacker.jobs.unpack_layer import unpack_layer
from stacker.layer.metadata import SQUASH
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.operations import pull as pull_module
from stacker.operations.convert import convert_image
from stacker.operations.pull import UnpackLayer, pull_image
from stacker.operations.remove import remove_image
from stacker.operations.stack import chain_id_of, is_complete
from stacker.store.store import Store
from tests.support.images import Pull
from tests.support.tars import file, tar
from tests.support.transfer import MemorySource

A, B, C = (tar(file(name, name.encode() * 100)) for name in "abc")
AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")


@pytest.fixture
def source() -> MemorySource:
    source = MemorySource("app")
    source.image("amd64", A, B)
    return source


def pull_from(
    store: Store,
    source: MemorySource,
    *,
    platform: Platform = AMD64,
    sync: bool = False,
    must_match: bool = False,
    unpack: UnpackLayer | None = None,
) -> tuple[ImagePulled, list[Event]]:
    events: list[Event] = []
    pulled = pull_image(
        store,
        source,
        platform=platform,
        options=UnpackOptions(WhiteoutFormat.USER, SQUASH, sync=sync),
        jobs=2,
        origin="memory",
        emit=events.append,
        must_match=must_match,
        unpack=unpack,
    )
    return pulled, events


def found(events: list[Event]) -> list[tuple[list[str], list[str]]]:
    """Return the missing and the present layers that a pull reported, in short."""
    return [
        ([layer.name.short for layer in event.missing], [each.short for each in event.present])
        for event in events
        if isinstance(event, LayersFound)
    ]


def short(*layers: bytes) -> list[str]:
    return [DiffID.of(layer).short for layer in layers]


def test_pull_unpacks_and_lists_the_image(store: Store, source: MemorySource) -> None:
    pulled, events = pull_from(store, source)
    assert (pulled.unpacked, pulled.present, pulled.warnings) == (2, 0, ())
    (image,) = store.images.all()
    assert (image.id, pulled.manifest.digest) == (pulled.image_id, image.manifests[0].digest)
    assert store.images.config(image.id).diff_ids == (DiffID.of(A), DiffID.of(B))
    assert found(events) == [(short(A, B), [])]
    unpacked = [event.diff_id for event in events if isinstance(event, LayerUnpacked)]
    assert sorted(map(str, unpacked)) == sorted(str(DiffID.of(layer)) for layer in (A, B))


def test_pull_asks_the_source_for_the_config_once_and_a_second_pull_never(
    store: Store, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    document = MemorySource.document

    def counted(self: MemorySource, descriptor: Descriptor) -> bytes:
        asked.append(descriptor.media_type)
        return document(self, descriptor)

    monkeypatch.setattr(MemorySource, "document", counted)
    pull_from(store, source)
    assert asked.count(mediatype.OCI_CONFIG) == 1
    pull_from(store, source)
    assert asked.count(mediatype.OCI_CONFIG) == 1


def test_second_pull_unpacks_nothing(store: Store, source: MemorySource) -> None:
    pull_from(store, source)
    pulled, events = pull_from(store, source, unpack=None)
    assert (pulled.unpacked, pulled.present) == (0, 2)
    assert found(events) == [([], short(A, B))]
    assert len(events) == 1


def test_layers_of_other_images_are_shared(store: Store, source: MemorySource, pull: Pull) -> None:
    pull("other", A, C)
    pulled, events = pull_from(store, source)
    assert (pulled.unpacked, pulled.present) == (1, 1)
    assert found(events) == [(short(B), short(A))]


def test_layer_that_occurs_twice_is_unpacked_once(store: Store) -> None:
    source = MemorySource("app")
    source.image("amd64", A, B, A)
    pulled, _ = pull_from(store, source)
    assert (pulled.unpacked, pulled.present) == (2, 0)


def test_damaged_config_in_the_store_is_read_from_the_source(
    store: Store, source: MemorySource
) -> None:
    pulled, _ = pull_from(store, source)
    path = store.blobs.path(Digest.recast(pulled.image_id))
    content = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(b"{}")
    assert pull_from(store, source)[0].image_id == pulled.image_id
    assert path.read_bytes() == content


def test_failed_pull_lists_no_image_and_leaves_no_staging_files(
    store: Store, source: MemorySource
) -> None:
    source.content[Digest.of(B)] = B[:-1] + b"\1"
    with pytest.raises(IntegrityError):
        pull_from(store, source)
    assert store.images.all() == []
    assert list(store.staging.root.iterdir()) == []


def test_single_image_for_another_platform_is_pulled_unless_it_must_match(
    store: Store, source: MemorySource
) -> None:
    with pytest.raises(NotFoundError):
        pull_from(store, source, platform=ARM64, must_match=True)
    assert store.images.all() == []
    pull_from(store, source, platform=ARM64)
    assert len(store.images.all()) == 1


def removing(*, times: int) -> Callable[[Store, ImageConfig], bool]:
    """Return `is_complete`, which at first removes all layers, as another process may."""
    left = [times]

    def removes_layers(store: Store, config: ImageConfig) -> bool:
        if left[0]:
            left[0] -= 1
            with store.staging.trash() as discard:
                discard([store.layers.paths(each).root for each in store.layers.all()])
        return is_complete(store, config)

    return removes_layers


def test_pull_starts_again_if_another_process_removes_layers(
    store: Store, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_module, "is_complete", removing(times=1))
    pulled, events = pull_from(store, source)
    assert found(events) == [(short(A, B), []), (short(A, B), [])]
    assert all(map(store.layers.has, store.images.config(pulled.image_id).diff_ids))


def test_pull_gives_up_if_layers_are_removed_again_and_again(
    store: Store, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_module, "is_complete", removing(times=10))
    with pytest.raises(NotFoundError, match="image removed while it was pulled"):
        pull_from(store, source)
    assert store.images.all() == []


def test_pull_starts_again_if_another_process_removes_the_form_of_its_stack(
    store: Store, pull: Pull, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the image is listed, nothing says that it needs this form of the shared layer."""
    other, real = pull("other", A), pull_module._stack

    def convert_afterwards(*arguments: Any) -> bool:
        monkeypatch.setattr(pull_module, "_stack", real)
        done = real(*arguments)
        convert_image(store, other, "erofs", jobs=1, emit=lambda _: None)
        return done

    monkeypatch.setattr(pull_module, "_stack", convert_afterwards)
    pulled, _ = pull_from(store, source)
    stack = store.chains.read(chain_id_of(store.images.config(pulled.image_id)))
    assert [path for path in (*stack.directories, *stack.tars) if not path.exists()] == []


def test_removed_image_is_pulled_again(store: Store, source: MemorySource) -> None:
    pulled, _ = pull_from(store, source)
    remove_image(store, pulled.image_id)
    assert pull_from(store, source)[0] == pulled


def test_sync_flushes_before_and_after_the_list_is_written(
    store: Store, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[int] = []

    def sync_filesystem(root: Path) -> None:
        assert root == store.root
        listed.append(len(store.images.all()))

    monkeypatch.setattr(pull_module, "sync_filesystem", sync_filesystem)
    pull_from(store, source, sync=True)
    assert listed == [0, 1]
    pull_from(store, source, sync=False)
    assert listed == [0, 1]


@pytest.mark.usefixtures("forks")
def test_another_function_may_unpack(store: Store, source: MemorySource, tmp_path: Path) -> None:
    def unpack(task: UnpackTask, emit: Emit) -> LayerUnpacked:
        (tmp_path / task.blob.digest.short).touch()
        return unpack_layer(task, emit)

    pull_from(store, source, unpack=unpack)
    assert {path.name for path in tmp_path.iterdir()} >= {Digest.of(A).short, Digest.of(B).short}
