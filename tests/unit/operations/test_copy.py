"""Copies: each document and blob once, after everything that it refers to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stacker.errors import IntegrityError, NotFoundError
from stacker.events import BlobsFound, BlobStored, Event
from stacker.image import mediatype
from stacker.image.digest import Digest
from stacker.image.platform import Platform
from stacker.operations.copy import copy_image
from stacker.source.resolve import resolve
from tests.support.transfer import MemoryDestination, MemorySource


def copy(source: MemorySource, **more: Any) -> tuple[MemoryDestination, list[Event]]:
    destination, events = MemoryDestination(), list[Event]()
    copy_image(source, destination, root=source.root(), jobs=2, emit=events.append, **more)
    return destination, events


def test_each_document_follows_what_it_refers_to() -> None:
    source = MemorySource()
    entries = [source.manifest(b"1", b"shared"), source.manifest(b"2", b"shared", b"2")]
    inner = source.index(entries[1])
    source.index(*entries, inner, entries[0])
    destination, events = copy(source)
    assert sorted(word for kind, word in destination.writes if kind == "blob") == [
        b"1",
        b"2",
        b"shared",
    ]
    assert destination.kinds == ["blob"] * 3 + ["document"] * 3 + ["root"]
    documents = [word for kind, word in destination.writes if kind != "blob"]
    for number, document in enumerate(documents):
        for entry in json.loads(document).get("manifests", []):
            before = [str(Digest.of(word)) for word in documents[:number]]
            assert entry["digest"] in before
    assert [type(event) for event in events if not hasattr(event, "done")] == [
        BlobsFound,
        *[BlobStored] * 3,
    ]


def test_untagged_copy_writes_the_root_by_digest() -> None:
    source = MemorySource()
    source.manifest(b"1")
    destination, _ = copy(source, tagged=False)
    assert destination.kinds == ["blob", "document"]


def test_blobs_may_be_mounted_from_the_given_repositories() -> None:
    source = MemorySource()
    source.manifest(b"1", b"2")
    destination, _ = copy(source, repositories=lambda _: ("registry.example/from",))
    assert destination.mount_from == [("registry.example/from",)] * 2


def test_foreign_layer_is_not_sent_and_embedded_blob_is() -> None:
    source = MemorySource()
    foreign = {
        "mediaType": mediatype.OCI_FOREIGN_LAYER,
        "digest": str(Digest.of(b"far")),
        "size": 3,
        "urls": ["https://registry.example/far"],
    }
    embedded = {"mediaType": "x", "digest": str(Digest.of(b"{}")), "size": 2, "data": "e30="}
    document = {"schemaVersion": 2, "config": embedded, "layers": [foreign]}
    source.add(json.dumps(document).encode(), mediatype.OCI_MANIFEST)
    destination, _ = copy(source)
    assert [word for kind, word in destination.writes if kind == "blob"] == [b"{}"]


def test_nested_indexes_are_limited() -> None:
    source = MemorySource()
    entry = source.manifest(b"1")
    for _ in range(10):
        entry = source.index(entry)
    with pytest.raises(IntegrityError, match="index too large"):
        copy(source)
    with pytest.raises(IntegrityError, match="too many nested"):
        resolve(source, Platform("linux", "amd64"))


def test_missing_document_fails_before_anything_is_sent() -> None:
    source = MemorySource()
    gone = {"mediaType": mediatype.OCI_MANIFEST, "digest": str(Digest.of(b"gone")), "size": 4}
    source.index(source.manifest(b"1"), gone)
    destination = MemoryDestination()
    with pytest.raises(NotFoundError):
        copy_image(source, destination, root=source.root(), jobs=1, emit=lambda _: None)
    assert destination.writes == []


def test_platform_is_found_in_nested_indexes() -> None:
    source = MemorySource()
    entries = [
        source.manifest(word, platform={"os": "linux", "architecture": word.decode()})
        for word in (b"amd64", b"arm64")
    ]
    source.index(source.index(*entries))
    for entry in entries:
        wanted = Platform("linux", entry["platform"]["architecture"])
        assert str(resolve(source, wanted).digest) == entry["digest"]
    # Each in an index of its own that declares no platform.
    source.index(*(source.index(source.index(entry)) for entry in entries))
    for entry in entries:
        wanted = Platform("linux", entry["platform"]["architecture"])
        assert str(resolve(source, wanted).digest) == entry["digest"]


def test_index_that_is_not_needed_for_the_choice_is_not_read() -> None:
    source = MemorySource()
    gone = {"mediaType": mediatype.OCI_INDEX, "digest": str(Digest.of(b"gone")), "size": 4}
    here = source.manifest(b"1", platform={"os": "linux", "architecture": "amd64"})
    source.index(gone, gone, here)
    assert str(resolve(source, Platform("linux", "amd64")).digest) == here["digest"]
    with pytest.raises(NotFoundError, match="gone"):
        resolve(source, Platform("linux", "arm64"))


@pytest.mark.parametrize("shape", ["deep", "wide"])
def test_search_for_a_platform_is_limited(shape: str) -> None:
    source = MemorySource()
    entry = source.manifest(b"1")
    if shape == "deep":
        for _ in range(20):
            entry = source.index(entry)
    else:
        many = [source.index(entry, source.manifest(str(n).encode())) for n in range(200)]
        source.index(*many)
    with pytest.raises(IntegrityError, match="too many nested indexes"):
        resolve(source, Platform("linux", "amd64"))
