"""The list of images: IDs, names and sources."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from stacker.errors import (
    NotFoundError,
    UsageError,
)
from stacker.image.descriptor import Descriptor
from stacker.image.digest import ChainID, DiffID, Digest, ImageID
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import lock
from stacker.store.blobs import BlobStore
from stacker.store.images import NAME
from stacker.store.store import Store

DIFF = DiffID.of(b"layer")
CHAIN = ChainID.of(b"chain")
FORM = WhiteoutFormat.TRUSTED


def image(store: Store, number: int, *names: str, source: str = "oci:x") -> ImageID:
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": []},
            "author": str(number),
        }
    ).encode()
    manifest = {
        "schemaVersion": 2,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": str(Digest.of(config)),
            "size": len(config),
        },
        "layers": [],
    }
    raw = json.dumps(manifest).encode()
    store.blobs.write(Digest.of(config), config)
    store.blobs.write(Digest.of(raw), raw)
    kind = "application/vnd.oci.image.manifest.v1+json"
    with store.images.write_lock():
        store.images.add(Descriptor(kind, Digest.of(raw), len(raw)), names, source)
    return ImageID.of(config)


def test_image_is_found_by_id_prefix_name_and_source(store: Store) -> None:
    one = image(store, 1, "app:1", source="oci:a:app:1")
    image(store, 2, "app:2", source="oci:b:app:2")
    for text in (str(one), one.hex, one.hex[:9], f"sha256:{one.hex[:9]}", "app:1", "oci:a:app:1"):
        assert store.images.find(text) == one


def test_ambiguous_prefix_lists_the_images(store: Store) -> None:
    by_digit: dict[str, list[ImageID]] = {}
    for number in range(17):
        found = image(store, number, f"n{number}")
        by_digit.setdefault(found.hex[0], []).append(found)
    digit, several = next((d, ids) for d, ids in by_digit.items() if len(ids) > 1)
    with pytest.raises(UsageError, match="ambiguous") as caught:
        store.images.find(digit)
    assert all(found.short in str(caught.value) for found in several)


def test_unknown_image_is_not_found(store: Store) -> None:
    image(store, 1, "app")
    for text in ("nothing", "", "sha256:", "f" * 64):
        with pytest.raises(NotFoundError, match="no such image"):
            store.images.find(text)


def test_digest_of_a_manifest_has_a_hint_with_the_image_id(store: Store) -> None:
    one = image(store, 1, "app")
    manifest = store.images.all()[0].manifests[0].digest
    with pytest.raises(NotFoundError) as caught:
        store.images.find(str(manifest))
    assert str(one) in (caught.value.hint or "")


def test_name_moves_to_the_latest_image(store: Store) -> None:
    one, two = image(store, 1, "app"), image(store, 2, "app")
    assert store.images.find("app") == two
    assert {i.id: i.names for i in store.images.all()} == {one: (), two: ("app",)}


def test_repeated_pull_lists_an_image_once(store: Store) -> None:
    one = image(store, 1, "app")
    image(store, 1, "app")
    image(store, 1, "other", source="oci:y")
    (stored,) = store.images.all()
    assert (stored.id, stored.names, stored.sources) == (one, ("app", "other"), ("oci:x", "oci:y"))


def test_image_without_a_name_is_listed(store: Store) -> None:
    one = image(store, 1)
    (stored,) = store.images.all()
    assert (stored.id, stored.names) == (one, ())


def test_removed_image_is_not_listed(store: Store) -> None:
    one, two = image(store, 1, "a"), image(store, 2, "b")
    with store.images.write_lock():
        store.images.remove(one)
    assert [i.id for i in store.images.all()] == [two]


def test_write_lock_has_one_holder(store: Store) -> None:
    with store.images.write_lock():
        assert lock.try_exclusive(store.root / "index.json.lock") is None


def test_list_of_images_is_an_oci_index(store: Store) -> None:
    image(store, 1, "app")
    index = json.loads((store.root / "images.json").read_text())
    assert index["schemaVersion"] == 2
    (entry,) = index["manifests"]
    assert entry["annotations"][NAME] == "app"
    blob = store.root / "blobs" / entry["digest"].replace(":", "/")
    assert blob.stat().st_size == entry["size"]


def test_each_document_of_an_image_is_read_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = image(store, 1, "app:1", "app:2")
    second = image(store, 2, "other")
    damaged = image(store, 3, "damaged")
    store.blobs.path(damaged).write_bytes(b"")
    read, original = Counter[str](), BlobStore.read

    def counted(blobs: BlobStore, digest: Digest | ImageID) -> bytes:
        read[str(digest)] += 1
        return original(blobs, digest)

    monkeypatch.setattr(BlobStore, "read", counted)
    messages: list[str] = []
    found = store.images.with_configs(messages.append)
    assert [(each.id, each.names) for each, _ in found] == [
        (first, ("app:1", "app:2")),
        (second, ("other",)),
    ]
    assert [message.partition(": ")[0] for message in messages] == ["image damaged"]
    assert set(read.values()) == {1}
    assert len(read) == 6
