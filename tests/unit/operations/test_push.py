"""Push: original blobs where possible, packed layers where not, and the same image ID."""

from __future__ import annotations

import gzip
import json

import pytest

from stacker.errors import IntegrityError, NotFoundError
from stacker.events import BlobsFound, Event, LayerPacked, LayersToPack
from stacker.image import mediatype
from stacker.image.digest import DiffID, Digest
from stacker.jobs.pack_layer import PackOptions
from stacker.operations.push import Pushed, choose_manifest, push_image
from stacker.store.store import Store
from tests.support.images import Pull
from tests.support.tars import file, tar
from tests.support.transfer import MemoryDestination

A, B = tar(file("a", b"1" * 100)), tar(file("b", b"2" * 100))


def push(
    store: Store,
    text: str,
    destination: MemoryDestination,
    packing: PackOptions | None = None,
    *,
    tagged: bool = True,
) -> tuple[Pushed, list[Event]]:
    events: list[Event] = []
    pushed = push_image(
        store,
        text,
        destination,
        packing=packing or PackOptions(),
        jobs=1,
        emit=events.append,
        tagged=tagged,
    )
    return pushed, events


def test_image_with_kept_blobs_keeps_its_manifest(store: Store, pull: Pull) -> None:
    image_id = pull("app", A, B, keep_blobs=True)
    destination = MemoryDestination()
    pushed, events = push(store, "app", destination)
    (image,) = store.images.all()
    assert (pushed.image_id, pushed.original, pushed.packed) == (image_id, True, 0)
    assert pushed.copied.root.digest == image.manifests[0].digest
    assert destination.content.keys() >= {image.manifests[0].digest, Digest.recast(image_id)}
    assert LayersToPack(()) in events


def test_layers_without_blobs_are_packed(store: Store, pull: Pull) -> None:
    image_id = pull("app", A, B)
    destination = MemoryDestination()
    pushed, events = push(store, "app", destination)
    root = destination.root
    assert (pushed.original, pushed.packed) == (False, 2)
    assert root["config"]["digest"] == str(image_id)
    assert [layer["mediaType"] for layer in root["layers"]] == [f"{mediatype.OCI_LAYER}+gzip"] * 2
    blobs = [destination.content[Digest.parse(layer["digest"])] for layer in root["layers"]]
    assert [gzip.decompress(blob) for blob in blobs] == [A, B]
    packed = [event.diff_id for event in events if isinstance(event, LayerPacked)]
    assert sorted(map(str, packed)) == sorted(str(DiffID.of(layer)) for layer in (A, B))


def test_zstd_has_its_own_media_type(store: Store, pull: Pull) -> None:
    pull("app", A)
    destination = MemoryDestination()
    push(store, "app", destination, PackOptions("zstd", 1))
    (layer,) = destination.root["layers"]
    assert layer["mediaType"] == f"{mediatype.OCI_LAYER}+zstd"


def test_layer_is_not_packed_if_the_destination_has_its_blob(store: Store, pull: Pull) -> None:
    pull("app", A, B)
    (image,) = store.images.all()
    manifest = store.images.manifest(image.manifests[0])
    destination = MemoryDestination()
    original = gzip.compress(A, 1, mtime=0)
    assert Digest.of(original) == manifest.layers[0].digest
    destination.writes.append(("blob", original))
    pushed, events = push(store, "app", destination)
    assert pushed.packed == 1
    (to_pack,) = (event.layers for event in events if isinstance(event, LayersToPack))
    assert to_pack == ((DiffID.of(B), len(B)),)
    assert destination.root["layers"][0]["digest"] == str(manifest.layers[0].digest)


def test_second_push_sends_no_blob(store: Store, pull: Pull) -> None:
    pull("app", A)
    destination = MemoryDestination()
    push(store, "app", destination)
    before = destination.kinds.count("blob")
    push(store, "app", destination)
    assert destination.kinds.count("blob") == before


def test_untagged_push_writes_the_manifest_by_digest(store: Store, pull: Pull) -> None:
    pull("app", A)
    destination = MemoryDestination()
    push(store, "app", destination, tagged=False)
    assert destination.kinds[-1] == "document"


def test_blobs_are_mounted_from_the_repository_they_came_from(store: Store, pull: Pull) -> None:
    pull("app", A, origin="docker://registry.example/team/app:1.0", keep_blobs=True)
    destination = MemoryDestination()
    push(store, "app", destination)
    assert set(destination.mount_from) == {("registry.example/team/app",)}


def test_layer_that_changed_on_disk_is_refused(store: Store, pull: Pull) -> None:
    pull("app", A)
    (store.layers.paths(DiffID.of(A)).diff / "a").write_bytes(b"3" * 100)
    destination = MemoryDestination()
    with pytest.raises(IntegrityError):
        push(store, "app", destination)
    assert destination.writes == []
    assert list(store.staging.root.iterdir()) == []


def test_missing_layer_is_refused(store: Store, pull: Pull) -> None:
    pull("app", A)
    with store.staging.trash() as discard:
        discard([store.layers.paths(DiffID.of(A)).root])
    with pytest.raises(NotFoundError):
        push(store, "app", MemoryDestination())


def test_unknown_image_is_refused(store: Store) -> None:
    with pytest.raises(NotFoundError):
        push(store, "none", MemoryDestination())


def test_manifest_is_chosen_by_name_then_by_kept_blobs(store: Store, pull: Pull) -> None:
    image_id = pull("first", A)
    assert pull("second", A, keep_blobs=True) == image_id
    by_name = {name: choose_manifest(store, image_id, name) for name in ("first", "second")}
    assert by_name["first"].annotations != by_name["second"].annotations
    assert choose_manifest(store, image_id, str(image_id)) == by_name["second"]


def test_events_name_all_blobs_of_the_image(store: Store, pull: Pull) -> None:
    pull("app", A, B, keep_blobs=True)
    destination = MemoryDestination()
    _, events = push(store, "app", destination)
    (found,) = (event for event in events if isinstance(event, BlobsFound))
    root = destination.root
    listed = [root["config"]["digest"], *(layer["digest"] for layer in root["layers"])]
    assert [str(blob.digest) for blob in found.blobs] == listed
    assert json.loads(destination.content[Digest.parse(listed[0])])["os"] == "linux"
