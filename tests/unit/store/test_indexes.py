"""Indexes by name: documents, replacement and removal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stacker.errors import IntegrityError, NotFoundError, UnsupportedError, UsageError
from stacker.image import mediatype
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest
from stacker.image.manifest import Index
from stacker.store.blobs import BlobStore
from stacker.store.indexes import IndexStore
from stacker.store.store import Store

MEMBER = Descriptor(mediatype.OCI_MANIFEST, Digest.of(b"1"), 1)
INDEX = Index(mediatype.OCI_INDEX, (MEMBER,))
ORIGINS = {str(MEMBER.digest): "docker://registry.example/app@sha256:1"}


@pytest.fixture
def indexes(tmp_path: Path) -> IndexStore:
    store = Store.open(tmp_path / "store")
    return store.indexes


def documents(indexes: IndexStore) -> set[str]:
    return {path.name for path in indexes.blobs.root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["app", "a/b:1.0@x", "x" * 255, "é"])
def test_index_is_found_by_its_name(indexes: IndexStore, name: str) -> None:
    put = indexes.put(name, INDEX, ORIGINS)
    found = indexes.find(name)
    assert found == put
    assert found.origins == ORIGINS
    assert found.digest == Digest.of(found.content)
    assert [one.name for one in indexes.all()] == [name]


def test_document_is_removed_with_its_last_name(indexes: IndexStore) -> None:
    indexes.put("one", INDEX, {})
    indexes.put("two", INDEX, {})
    (shared,) = documents(indexes)
    changed = indexes.put("one", replace(INDEX, annotations={"a": "1"}), {})
    assert documents(indexes) == {shared, changed.digest.hex}
    indexes.remove("two")
    assert documents(indexes) == {changed.digest.hex}
    indexes.remove("one")
    assert documents(indexes) == set()
    assert list(indexes.all()) == []


@pytest.mark.parametrize("name", ["", "a b", "a\n", "docker://x/y", "x" * 256])
def test_malformed_name_is_rejected(indexes: IndexStore, name: str) -> None:
    with pytest.raises(UsageError):
        indexes.put(name, INDEX, {})


def test_missing_index_is_not_found(indexes: IndexStore) -> None:
    with pytest.raises(NotFoundError):
        indexes.find("none")
    with pytest.raises(NotFoundError):
        indexes.remove("none")


@pytest.mark.parametrize("part", ["record", "document"])
def test_damaged_index_hides_no_other_one_and_can_be_removed(
    indexes: IndexStore, part: str
) -> None:
    indexes.put("sound", replace(INDEX, annotations={"a": "1"}), {})
    document = indexes.blobs.path(indexes.put("app", INDEX, {}).digest)
    damaged = indexes.require("app") if part == "record" else document
    damaged.write_bytes(b"")
    reports: list[str] = []
    assert [index.name for index in indexes.all(reports.append)] == ["sound"]
    assert len(reports) == 1
    assert f"{damaged}" in reports[0]
    assert indexes.damaged() == [indexes.require("app")]
    changed = indexes.put("sound", INDEX, {})
    assert indexes.find("sound") == changed
    indexes.remove("app")
    assert indexes.all(reports.append) == [changed]
    assert len(reports) == 1


def test_index_that_another_process_changes_is_read_again(
    indexes: IndexStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexes.put("app", INDEX, {})
    real = BlobStore.read

    def changing(blobs: BlobStore, digest: Digest) -> bytes:
        monkeypatch.setattr(BlobStore, "read", real)
        indexes.put("app", replace(INDEX, annotations={"a": "1"}), {})
        return real(blobs, digest)

    monkeypatch.setattr(BlobStore, "read", changing)
    assert indexes.find("app").index.annotations == {"a": "1"}


def test_damaged_index_is_an_integrity_error(indexes: IndexStore) -> None:
    put = indexes.put("app", INDEX, {})
    indexes.blobs.path(put.digest).write_bytes(b"{}")
    with pytest.raises(IntegrityError):
        indexes.find("app")
    (record,) = (indexes.root / "indexes").iterdir()
    record.write_bytes(record.read_bytes().replace(b'"version": 1', b'"version": 2'))
    with pytest.raises(UnsupportedError):
        indexes.find("app")
