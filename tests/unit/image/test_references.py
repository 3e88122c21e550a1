"""What a document refers to: everything that must be there before it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stacker.errors import IntegrityError
from stacker.image.digest import Digest
from stacker.image.manifest import references

ONE, TWO, THREE = (
    {"mediaType": "application/vnd.tests", "digest": str(Digest.of(word)), "size": 1}
    for word in (b"1", b"2", b"3")
)


def found(document: dict[str, Any]) -> tuple[list[str], list[str]]:
    refers = references(json.dumps({"schemaVersion": 2, **document}).encode(), "test")
    return [str(d.digest) for d in refers.documents], [str(d.digest) for d in refers.blobs]


def test_a_manifest_refers_to_blobs_of_any_type() -> None:
    document = {"config": ONE, "layers": [TWO, THREE], "subject": ONE}
    assert found(document) == ([], [ONE["digest"], TWO["digest"], THREE["digest"]])


def test_an_index_refers_to_documents() -> None:
    assert found({"manifests": [ONE, TWO]}) == ([ONE["digest"], TWO["digest"]], [])


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"config": ONE},
        {"layers": [ONE]},
        {"manifests": [ONE], "layers": [TWO], "config": ONE},
        {"manifests": [ONE], "Layers": []},
        {"config": ONE, "layers": [{}]},
        {"manifests": [{**ONE, "digest": "sha256:1"}]},
    ],
)
def test_what_two_readers_may_read_differently_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError):
        found(document)
