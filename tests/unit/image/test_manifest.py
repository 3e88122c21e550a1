"""Manifests and indexes of OCI and Docker, and the references in them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stacker.errors import IntegrityError, UnsupportedError
from stacker.image import mediatype
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest, ImageID
from stacker.image.document import DOCUMENT_LIMIT
from stacker.image.manifest import Index, Manifest, parse_document, references


def blob(media_type: str, content: bytes = b"{}") -> dict[str, object]:
    """Return the descriptor of some bytes as JSON."""
    return Descriptor(media_type, Digest.of(content), len(content)).to_json()


def manifest(**changes: object) -> dict[str, object]:
    """Return an OCI manifest with two layers; a change to ... drops the field."""
    members: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": mediatype.OCI_MANIFEST,
        "config": blob(mediatype.OCI_CONFIG),
        "layers": [blob(mediatype.OCI_LAYER + "+gzip", b"a"), blob(mediatype.OCI_LAYER, b"b")],
    } | changes
    return {name: value for name, value in members.items() if value is not ...}


def index(**changes: object) -> dict[str, object]:
    """Return an OCI index with one entry; a change to ... drops the field."""
    members: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": mediatype.OCI_INDEX,
        "manifests": [blob(mediatype.OCI_MANIFEST)],
    } | changes
    return {name: value for name, value in members.items() if value is not ...}


def parse(members: dict[str, object], media_type: str | None = None) -> Manifest | Index:
    """Return the document with these members, parsed."""
    return parse_document(json.dumps(members).encode(), media_type=media_type, what="doc")


def test_an_oci_manifest_is_read() -> None:
    read = parse(manifest(annotations={"a": "b"}, subject=blob(mediatype.OCI_MANIFEST)))
    assert isinstance(read, Manifest)
    assert read.media_type == mediatype.OCI_MANIFEST
    assert read.config.digest == Digest.of(b"{}")
    assert read.image_id == ImageID.of(b"{}")
    assert [layer.digest for layer in read.layers] == [Digest.of(b"a"), Digest.of(b"b")]
    assert read.annotations == {"a": "b"}


def test_a_docker_manifest_is_read_alike() -> None:
    read = parse(
        manifest(
            mediaType=mediatype.DOCKER_MANIFEST,
            config=blob(mediatype.DOCKER_CONFIG),
            layers=[blob(mediatype.DOCKER_LAYER + ".gzip")],
        ),
        mediatype.DOCKER_MANIFEST,
    )
    assert isinstance(read, Manifest)
    assert read.config.media_type == mediatype.DOCKER_CONFIG


@pytest.mark.parametrize("media_type", [mediatype.OCI_INDEX, mediatype.DOCKER_LIST])
def test_an_index_and_a_manifest_list_are_read_alike(media_type: str) -> None:
    read = parse(index(mediaType=media_type), media_type)
    assert isinstance(read, Index)
    assert read.manifests[0].digest == Digest.of(b"{}")


def test_index_may_list_artifacts() -> None:
    read = parse(index(manifests=[blob("application/vnd.example.thing+json")]))
    assert isinstance(read, Index)
    assert len(read.manifests) == 1


@pytest.mark.parametrize("layer", sorted(mediatype.LAYERS))
def test_every_layer_type_of_the_two_specifications_is_read(layer: str) -> None:
    read = parse(manifest(layers=[blob(layer)]))
    assert isinstance(read, Manifest)
    assert read.layers[0].is_foreign is (layer in mediatype.FOREIGN_LAYERS)


@pytest.mark.parametrize("kind", ["application/octet-stream", "application/json"])
def test_config_without_its_type_is_accepted_in_schema_2_only(kind: str) -> None:
    read = parse(manifest(mediaType=mediatype.DOCKER_MANIFEST, config=blob(kind)))
    assert isinstance(read, Manifest)
    assert read.config.media_type == kind
    with pytest.raises(UnsupportedError, match=kind):
        parse(manifest(config=blob(kind)))


@pytest.mark.parametrize("layers", [[], None])
def test_an_image_without_layers_is_legal(layers: object) -> None:
    read = parse(manifest(layers=layers))
    assert isinstance(read, Manifest)
    assert read.layers == ()


@pytest.mark.parametrize("announced", [None, mediatype.OCI_MANIFEST])
def test_manifest_may_omit_its_media_type(announced: str | None) -> None:
    assert parse(manifest(mediaType=...), announced) == parse(manifest())


@pytest.mark.parametrize("announced", [None, mediatype.OCI_INDEX])
def test_index_may_omit_its_media_type(announced: str | None) -> None:
    assert parse(index(mediaType=...), announced) == parse(index())


@pytest.mark.parametrize(
    ("members", "announced"),
    [
        (manifest(), mediatype.DOCKER_MANIFEST),
        (manifest(), mediatype.OCI_INDEX),
        (index(), mediatype.OCI_MANIFEST),
    ],
)
def test_document_of_another_type_than_announced_is_refused(
    members: dict[str, object], announced: str
) -> None:
    with pytest.raises(IntegrityError, match=r"doc: mediaType: got '.*', want '"):
        parse(members, announced)


@pytest.mark.parametrize(
    "members",
    [
        manifest(manifests=[blob(mediatype.OCI_MANIFEST)]),
        manifest(manifests=[]),
        manifest(Manifests=[]),
        {**manifest(), "manife\u017ft\u017f": []},  # each an s, by Unicode's folding and Go's
        index(layers=[]),
        index(config=blob(mediatype.OCI_CONFIG)),
        index(mediaType=..., layers=[blob(mediatype.OCI_LAYER)]),
        index(fsLayers=[]),
        index(LAYERS=[]),
    ],
)
def test_a_manifest_that_is_also_an_index_is_refused(members: dict[str, object]) -> None:
    with pytest.raises(IntegrityError, match="a manifest that is also an index"):
        parse(members)


def test_fields_that_differ_in_case_only_are_refused() -> None:
    with pytest.raises(IntegrityError, match="differ in case only"):
        parse(manifest(Layers=[]))


@pytest.mark.parametrize(
    ("members", "announced"),
    [
        (manifest(mediaType=..., layers=..., config=..., manifests=[]), mediatype.OCI_MANIFEST),
        (manifest(mediaType=...), mediatype.OCI_INDEX),
        (manifest(layers=...), None),
        (manifest(config=...), None),
        (index(manifests=...), None),
    ],
)
def test_document_without_required_fields_is_refused(
    members: dict[str, object], announced: str | None
) -> None:
    with pytest.raises(IntegrityError, match="got nothing, want"):
        parse(members, announced)


@pytest.mark.parametrize("version", [0, 3, -1, "2", 2.0, True, None, [2], 10**300])
def test_another_schema_version_is_refused(version: object) -> None:
    with pytest.raises(IntegrityError, match="schemaVersion"):
        parse(manifest(schemaVersion=version))


def test_schema_1_is_unsupported_with_a_hint() -> None:
    old: dict[str, object] = {"schemaVersion": 1, "fsLayers": [], "history": [], "name": "x"}
    with pytest.raises(UnsupportedError, match="schemaVersion: got 1, want 2") as caught:
        parse(old)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("members", "named"),
    [
        (manifest(mediaType="application/vnd.example+json"), "application/vnd.example"),
        (manifest(config=blob("application/vnd.oci.empty.v1+json")), "vnd.oci.empty.v1"),
        (manifest(config=blob("application/vnd.docker.plugin.v1+json")), "docker.plugin"),
        (manifest(layers=[blob(mediatype.OCI_LAYER + "+gzip+encrypted")]), r"layers\[0\].*encryp"),
        (manifest(layers=[blob(mediatype.OCI_LAYER + "+xz")]), r"tar\+xz"),
        (manifest(layers=[blob(mediatype.OCI_LAYER.upper())]), "APPLICATION"),
    ],
)
def test_an_unknown_media_type_is_unsupported_by_name(
    members: dict[str, object], named: str
) -> None:
    with pytest.raises(UnsupportedError, match=f"^doc: .*{named}"):
        parse(members)


@pytest.mark.parametrize(
    "members",
    [
        manifest(mediaType=7),
        manifest(config=[]),
        manifest(config="x"),
        manifest(layers={}),
        manifest(layers=["x"]),
        manifest(layers=[{}]),
        manifest(annotations=[]),
        manifest(annotations={"a": 1}),
        index(manifests={}),
        index(manifests=[[]]),
        index(manifests=[{"mediaType": 1}]),
    ],
)
def test_a_field_of_the_wrong_type_is_refused(members: dict[str, object]) -> None:
    with pytest.raises(IntegrityError, match=r"^doc: .*got .*, want"):
        parse(members)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"[" * 100_000, b'{"a":1,"a":1}', b" " * (DOCUMENT_LIMIT + 1)]
)
def test_malformed_document_is_refused_in_one_line(raw: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"^doc: ") as caught:
        parse_document(raw, media_type=None, what="doc")
    assert "\n" not in caught.value.message


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
def test_ambiguous_document_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError):
        found(document)
