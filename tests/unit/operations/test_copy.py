"""From any source to any destination: each thing once, after what it refers to."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any, BinaryIO

import pytest

from stacker.errors import IntegrityError, NotFoundError
from stacker.events import BlobsFound, BlobStored, Event, Transfer
from stacker.image import mediatype
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest
from stacker.image.platform import Platform
from stacker.operations.copy import copy_image
from stacker.source.protocol import read_document
from stacker.source.resolve import resolve
from stacker.stream.compression import BlobOpener
from stacker.stream.verify import ByteProgress


class Memory:
    """Documents and blobs in memory, as a source."""

    names = ()

    def __init__(self) -> None:
        self.content: dict[Digest, bytes] = {}
        self.last: Descriptor | None = None

    def add(self, data: bytes, media_type: str = "application/vnd.tests", **more: Any) -> Any:
        """Keep bytes, and give their descriptor's JSON."""
        self.content[Digest.of(data)] = data
        self.last = Descriptor(media_type, Digest.of(data), len(data))
        return {**self.last.to_json(), **more}

    def manifest(self, *words: bytes, **more: Any) -> Any:
        config, *layers = map(self.add, words)
        document = {"schemaVersion": 2, "config": config, "layers": layers}
        return self.add(json.dumps(document).encode(), mediatype.OCI_MANIFEST, **more)

    def index(self, *entries: Any) -> Any:
        document = {"schemaVersion": 2, "manifests": entries}
        return self.add(json.dumps(document).encode(), mediatype.OCI_INDEX)

    def root(self) -> Descriptor:
        assert self.last is not None
        return self.last

    def document(self, descriptor: Descriptor) -> bytes:
        return read_document(self, descriptor, "memory")

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        if descriptor.digest not in self.content:
            raise NotFoundError("gone")
        return io.BytesIO(self.content[descriptor.digest])


class Journal:
    """Writes down what comes, as a destination."""

    what = "journal"
    is_sequential = True

    def __init__(self) -> None:
        self.came: list[tuple[str, bytes]] = []
        self.mount_from: list[Sequence[str]] = []

    def put_blob(
        self,
        descriptor: Descriptor,
        opened: BlobOpener | None,
        *,
        mount_from: Sequence[str] = (),
        report: ByteProgress,
    ) -> Transfer | None:
        assert opened is not None
        self.mount_from.append(mount_from)
        with opened() as file:
            self.came.append(("blob", file.read()))
        report(descriptor.size)
        return Transfer.SENT

    def has_document(self, descriptor: Descriptor) -> bool:
        raise AssertionError(descriptor)

    def put_document(self, descriptor: Descriptor, content: bytes) -> None:
        assert descriptor.digest == Digest.of(content)
        self.came.append(("document", content))

    def finish(self, root: Descriptor, content: bytes) -> None:
        assert root.digest == Digest.of(content)
        self.came.append(("name", content))


def delivered(source: Memory, **more: Any) -> tuple[Journal, list[Event]]:
    journal, events = Journal(), list[Event]()
    copy_image(source, journal, root=source.root(), jobs=2, emit=events.append, **more)
    return journal, events


def test_everything_comes_once_and_after_what_it_refers_to() -> None:
    source = Memory()
    entries = [source.manifest(b"1", b"shared"), source.manifest(b"2", b"shared", b"2")]
    inner = source.index(entries[1])
    source.index(*entries, inner, entries[0])
    journal, events = delivered(source)
    assert sorted(word for kind, word in journal.came if kind == "blob") == [b"1", b"2", b"shared"]
    kinds = [kind for kind, _ in journal.came]
    assert kinds == ["blob"] * 3 + ["document"] * 3 + ["name"]
    documents = [word for kind, word in journal.came if kind != "blob"]
    for number, document in enumerate(documents):
        for entry in json.loads(document).get("manifests", []):
            before = [str(Digest.of(word)) for word in documents[:number]]
            assert entry["digest"] in before
    assert [type(event) for event in events if not hasattr(event, "done")] == [
        BlobsFound,
        *[BlobStored] * 3,
    ]


def test_without_a_name_the_last_is_there_by_its_digest() -> None:
    source = Memory()
    source.manifest(b"1")
    journal, _ = delivered(source, tagged=False)
    assert [kind for kind, _ in journal.came] == ["blob", "document"]


def test_blobs_are_said_to_be_where_they_come_from() -> None:
    source = Memory()
    source.manifest(b"1", b"2")
    journal, _ = delivered(source, repositories=lambda _: ("registry.example/from",))
    assert journal.mount_from == [("registry.example/from",)] * 2


def test_a_foreign_layer_stays_where_it_is_and_embedded_bytes_are_sent() -> None:
    source = Memory()
    foreign = {
        "mediaType": mediatype.OCI_FOREIGN_LAYER,
        "digest": str(Digest.of(b"far")),
        "size": 3,
        "urls": ["https://registry.example/far"],
    }
    embedded = {"mediaType": "x", "digest": str(Digest.of(b"{}")), "size": 2, "data": "e30="}
    document = {"schemaVersion": 2, "config": embedded, "layers": [foreign]}
    source.add(json.dumps(document).encode(), mediatype.OCI_MANIFEST)
    journal, _ = delivered(source)
    assert [word for kind, word in journal.came if kind == "blob"] == [b"{}"]


def test_indexes_in_one_another_end() -> None:
    source = Memory()
    entry = source.manifest(b"1")
    for _ in range(10):
        entry = source.index(entry)
    with pytest.raises(IntegrityError, match="index too large"):
        delivered(source)
    with pytest.raises(IntegrityError, match="too many nested"):
        resolve(source, Platform("linux", "amd64"))


def test_a_document_that_is_missing_stops_it_before_anything_is_sent() -> None:
    source = Memory()
    gone = {"mediaType": mediatype.OCI_MANIFEST, "digest": str(Digest.of(b"gone")), "size": 4}
    source.index(source.manifest(b"1"), gone)
    journal = Journal()
    with pytest.raises(NotFoundError):
        copy_image(source, journal, root=source.root(), jobs=1, emit=lambda _: None)
    assert journal.came == []


def test_the_platform_chooses_through_indexes() -> None:
    source = Memory()
    entries = [
        source.manifest(word, platform={"os": "linux", "architecture": word.decode()})
        for word in (b"amd64", b"arm64")
    ]
    source.index(source.index(*entries))
    for entry in entries:
        wanted = Platform("linux", entry["platform"]["architecture"])
        assert str(resolve(source, wanted).digest) == entry["digest"]
    # Each in an index of its own, of which nobody says what it is for.
    source.index(*(source.index(source.index(entry)) for entry in entries))
    for entry in entries:
        wanted = Platform("linux", entry["platform"]["architecture"])
        assert str(resolve(source, wanted).digest) == entry["digest"]


def test_what_need_not_be_read_to_choose_need_not_be_there() -> None:
    source = Memory()
    gone = {"mediaType": mediatype.OCI_INDEX, "digest": str(Digest.of(b"gone")), "size": 4}
    here = source.manifest(b"1", platform={"os": "linux", "architecture": "amd64"})
    source.index(gone, gone, here)
    assert str(resolve(source, Platform("linux", "amd64")).digest) == here["digest"]
    with pytest.raises(NotFoundError, match="gone"):
        resolve(source, Platform("linux", "arm64"))


@pytest.mark.parametrize("shape", ["deep", "wide"])
def test_looking_for_a_platform_ends(shape: str) -> None:
    source = Memory()
    entry = source.manifest(b"1")
    if shape == "deep":
        for _ in range(20):
            entry = source.index(entry)
    else:
        many = [source.index(entry, source.manifest(str(n).encode())) for n in range(200)]
        source.index(*many)
    with pytest.raises(IntegrityError, match="too many nested indexes"):
        resolve(source, Platform("linux", "amd64"))
