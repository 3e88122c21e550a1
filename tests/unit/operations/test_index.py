"""Indexes: created of images in the store and in registries, annotated, and pushed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from stacker.errors import LockedError, NotFoundError, UsageError
from stacker.events import Event, MemberSent
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest, ImageID
from stacker.image.platform import Platform
from stacker.jobs.pack_layer import PackOptions
from stacker.operations.copy import Copied
from stacker.operations.index import (
    IndexChange,
    OpenSource,
    annotate_index,
    create_index,
    push_index,
)
from stacker.source.protocol import Source
from stacker.store.indexes import StoredIndex
from stacker.store.store import Store
from tests.support.images import Pull
from tests.support.tars import file, tar
from tests.support.transfer import MemoryDestination, MemorySource

LAYER = tar(file("a", b"1"))
REMOTE = "docker://registry.example/app:1.0"
ORIGIN = "docker://registry.example/app"


def opens(source: MemorySource) -> OpenSource:
    """Return a function that opens `source` as the image that a reference names."""

    @contextmanager
    def open_source(text: str) -> Iterator[Source]:
        assert text.startswith(ORIGIN)
        yield source

    return open_source


def no_registry(text: str) -> Any:
    raise AssertionError(f"opened {text}")


@pytest.fixture
def remote() -> MemorySource:
    """Return a registry with one image for arm64."""
    source = MemorySource("registry.example/app:1.0")
    source.image("arm64", LAYER)
    return source


@pytest.fixture
def local(pull: Pull) -> ImageID:
    """Pull an image for amd64."""
    return pull("app-amd64", LAYER, keep_blobs=True)


@pytest.fixture
def stored(store: Store, local: ImageID, remote: MemorySource) -> StoredIndex:
    """Create an index of the image in the store and the image in the registry."""
    return create_index(store, "app", ["app-amd64", REMOTE], opens(remote))


def platforms(stored: StoredIndex) -> list[str]:
    return [str(entry.platform) for entry in stored.index.manifests]


def push(
    store: Store, destination: MemoryDestination, open_source: OpenSource = no_registry
) -> tuple[Copied, list[Event]]:
    events: list[Event] = []
    copied = push_index(
        store,
        "app",
        destination,
        open_source=open_source,
        packing=PackOptions(),
        jobs=1,
        emit=events.append,
    )
    return copied, events


# Creation


def test_members_have_the_platforms_of_their_configs(
    store: Store, stored: StoredIndex, local: ImageID, remote: MemorySource
) -> None:
    assert platforms(stored) == ["linux/amd64", "linux/arm64"]
    assert list(stored.origins.values()) == [str(local), f"{ORIGIN}@{remote.root().digest}"]
    assert store.indexes.find("app") == stored


def test_members_of_a_remote_index_become_members(store: Store) -> None:
    source = MemorySource("registry.example/app:1.0")
    entries = [source.image(name, LAYER) for name in ("amd64", "arm64")]
    source.index(*entries)
    stored = create_index(store, "app", [REMOTE], opens(source))
    digests = [entry["digest"] for entry in entries]
    assert [str(entry.digest) for entry in stored.index.manifests] == digests
    assert list(stored.origins.values()) == [f"{ORIGIN}@{digest}" for digest in digests]


def test_member_that_is_named_twice_is_listed_once(store: Store, local: ImageID) -> None:
    stored = create_index(store, "app", ["app-amd64", str(local)], no_registry)
    assert platforms(stored) == ["linux/amd64"]


def test_existing_name_is_refused(store: Store, stored: StoredIndex) -> None:
    with pytest.raises(UsageError, match="index exists"):
        create_index(store, "app", ["app-amd64"], no_registry)
    assert store.indexes.find("app") == stored


def test_unknown_member_creates_no_index(store: Store, local: ImageID) -> None:
    with pytest.raises(NotFoundError):
        create_index(store, "app", ["app-amd64", "none"], no_registry)
    assert list(store.indexes.all()) == []


# Annotation


@pytest.mark.parametrize("by", ["platform", "digest", "first digits", "image", "image ID"])
def test_member_is_found(store: Store, stored: StoredIndex, local: ImageID, by: str) -> None:
    entry = stored.index.manifests[0]
    names = {
        "platform": "linux/amd64",
        "digest": str(entry.digest),
        "first digits": entry.digest.hex[:8],
        "image": "app-amd64",
        "image ID": str(local),
    }
    change = IndexChange(variant="v3", annotations={"a": "1"})
    changed = annotate_index(store, "app", names[by], change).index.manifests
    assert (str(changed[0].platform), changed[0].annotations) == ("linux/amd64/v3", {"a": "1"})
    assert changed[1] == stored.index.manifests[1]


def test_member_with_an_origin_in_a_registry_is_found_by_it(
    store: Store, stored: StoredIndex
) -> None:
    origin = stored.origins[str(stored.index.manifests[1].digest)]
    changed = annotate_index(store, "app", origin, IndexChange(os="freebsd"))
    assert platforms(changed) == ["linux/amd64", "freebsd/arm64"]


def test_ambiguous_member_is_refused(store: Store, stored: StoredIndex) -> None:
    with pytest.raises(UsageError, match="ambiguous"):
        annotate_index(store, "app", "sha256:", IndexChange(variant="v8"))


def test_unknown_member_is_refused(store: Store, stored: StoredIndex) -> None:
    with pytest.raises(NotFoundError, match="no such member"):
        annotate_index(store, "app", "linux/s390x", IndexChange(variant="v8"))


def test_index_has_annotations_but_no_platform(store: Store, stored: StoredIndex) -> None:
    changed = annotate_index(store, "app", None, IndexChange(annotations={"a": "1"}))
    assert changed.index.annotations == {"a": "1"}
    assert changed.digest != stored.digest
    with pytest.raises(UsageError, match="no member"):
        annotate_index(store, "app", None, IndexChange(os="linux"))
    assert annotate_index(store, "app", None, IndexChange(annotations={"a": ""})) == stored


ARM = Descriptor("x", Digest.of(b""), 0, platform=Platform("linux", "arm", "v7", "6.1"))


@pytest.mark.parametrize(
    ("change", "platform"),
    [
        (IndexChange(), ("linux", "arm", "v7", "6.1")),
        (IndexChange(variant="v6"), ("linux", "arm", "v6", "6.1")),
        (IndexChange(architecture="ppc64"), ("linux", "ppc64", "", "6.1")),
        (IndexChange(os="freebsd"), ("freebsd", "arm", "v7", "")),
        (IndexChange(os_version="6.2"), ("linux", "arm", "v7", "6.2")),
    ],
    ids=["nothing", "variant", "architecture", "os", "version"],
)
def test_a_change_drops_what_belongs_to_the_old_platform(
    change: IndexChange, platform: tuple[str, str, str, str]
) -> None:
    assert change.apply(ARM).platform == Platform(*platform)


def test_platform_needs_an_os_and_an_architecture() -> None:
    with pytest.raises(UsageError, match="incomplete platform"):
        IndexChange(os="linux").apply(Descriptor("x", Digest.of(b""), 0))


# Push


def test_members_are_sent_before_the_index(
    store: Store, stored: StoredIndex, remote: MemorySource
) -> None:
    destination = MemoryDestination()
    copied, events = push(store, destination, opens(remote))
    assert destination.kinds[-1] == "root"
    assert destination.kinds.count("document") == 2
    assert (copied.root.digest, copied.documents) == (stored.digest, 3)
    assert sum(copied.transfers.values()) == 4
    sent = [event for event in events if isinstance(event, MemberSent)]
    assert sent == [MemberSent(entry, sent=True) for entry in stored.index.manifests]


def test_members_at_the_destination_are_not_sent_again(
    store: Store, stored: StoredIndex, remote: MemorySource
) -> None:
    destination = MemoryDestination()
    push(store, destination, opens(remote))
    copied, events = push(store, destination)
    assert (copied.documents, copied.transfers) == (1, {})
    assert [event.sent for event in events if isinstance(event, MemberSent)] == [False, False]


def test_blobs_of_a_remote_member_are_mounted_from_its_repository(
    store: Store, remote: MemorySource
) -> None:
    create_index(store, "app", [REMOTE], opens(remote))
    destination = MemoryDestination()
    push(store, destination, opens(remote))
    assert set(destination.mount_from) == {("registry.example/app",)}


def test_packed_member_changes_the_index_in_the_store(store: Store, pull: Pull) -> None:
    pull("app-amd64", LAYER)
    before = create_index(store, "app", ["app-amd64"], no_registry)
    destination = MemoryDestination()
    copied, _ = push(store, destination)
    after = store.indexes.find("app")
    assert copied.root.digest == after.digest != before.digest
    (entry,) = after.index.manifests
    assert entry.digest in destination.content
    assert entry.platform == before.index.manifests[0].platform
    assert after.origins == {str(entry.digest): next(iter(before.origins.values()))}


def test_index_that_changes_during_the_push_is_not_overwritten(store: Store, pull: Pull) -> None:
    pull("app-amd64", LAYER)
    create_index(store, "app", ["app-amd64"], no_registry)

    class Changing(MemoryDestination):
        def put_document(self, descriptor: Descriptor, content: bytes) -> None:
            annotate_index(store, "app", None, IndexChange(annotations={"a": "1"}))
            super().put_document(descriptor, content)

    destination = Changing()
    with pytest.raises(LockedError, match="index changed during the push"):
        push(store, destination)
    assert store.indexes.find("app").index.annotations == {"a": "1"}
    assert "root" not in destination.kinds


def test_unknown_index_is_refused(store: Store) -> None:
    with pytest.raises(NotFoundError):
        push(store, MemoryDestination())
