"""Documents from a registry: digests, media types, sizes and errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stacker.errors import (
    IntegrityError,
    NetworkError,
    NotFoundError,
    UnsupportedError,
)
from stacker.image import mediatype
from stacker.image.digest import Digest
from stacker.source.protocol import SizedSource
from tests.support import schema1
from tests.support.registries import FakeRegistry, Handler
from tests.support.registry_images import announce, opened, read_everything, refused


def test_an_image_is_read_by_tag(server: FakeRegistry) -> None:
    with opened(server) as source:
        read_everything(source)
        assert source.names == (f"{server.host}/app:1.0",)
        assert source.root().media_type == mediatype.OCI_MANIFEST
    # The scheme is tested first; manifest, config and layer are requested once each.
    assert [asked.path.split("/")[3:4] for asked in server.asked] == [
        [],
        ["manifests"],
        ["blobs"],
        ["blobs"],
    ]


def test_an_image_is_read_by_digest(server: FakeRegistry, make_image: Any) -> None:
    digest = make_image(b"one").descriptor.digest
    for rest in (f"app@{digest}", f"app:other@{digest}"):
        with opened(server, rest) as source:
            assert source.root().digest == digest
            assert source.names == (f"{server.host}/{rest}",)
    assert server.count(str(digest)) == 2


def test_manifest_with_another_digest_is_refused(server: FakeRegistry, make_image: Any) -> None:
    other = make_image(b"two")
    server.content[f"/v2/app/manifests/{other.descriptor.digest}"] = (
        mediatype.OCI_MANIFEST,
        make_image(b"one").manifest,
    )
    error = refused(IntegrityError, server, f"app@{other.descriptor.digest}")
    assert "wrong digest" in error.message


def test_docker_content_digest_is_not_trusted(server: FakeRegistry, make_image: Any) -> None:
    image = make_image(b"one")
    lie = {"Docker-Content-Digest": str(Digest.of(b"lie")), "Content-Type": mediatype.OCI_MANIFEST}

    def quirk(request: Handler) -> bool:
        if "manifests" not in request.path:
            return False
        request.answer(200, image.manifest, lie)
        return True

    server.quirk = quirk
    with opened(server) as source:
        assert source.root().digest == image.descriptor.digest


def test_index_is_requested_and_its_entries_verified(server: FakeRegistry, make_image: Any) -> None:
    image = make_image(b"two")
    entry = {**image.descriptor.to_json(), "platform": {"os": "linux", "architecture": "arm64"}}
    index = {"schemaVersion": 2, "mediaType": mediatype.DOCKER_LIST, "manifests": [entry]}
    announce(server, "1.0", mediatype.DOCKER_LIST + "; charset=utf-8", json.dumps(index).encode())
    announce(server, "arm", mediatype.OCI_MANIFEST, image.manifest)
    with opened(server) as source:
        assert source.root().media_type == mediatype.DOCKER_LIST
        assert source.document(image.descriptor) == image.manifest
    accepted = server.asked[1].headers["accept"].split(", ")
    newest = mediatype.MANIFESTS | mediatype.INDEXES
    assert set(accepted[:4]) == newest
    assert set(accepted[4:]) == {schema1.PLAIN, schema1.SIGNED}
    asked = server.asked[-1]
    assert asked.path == f"/v2/app/manifests/{image.descriptor.digest}"
    assert asked.headers["accept"] == mediatype.OCI_MANIFEST


def test_entry_with_another_content_type_is_refused(server: FakeRegistry, make_image: Any) -> None:
    image = make_image(b"two")
    announce(server, "arm", mediatype.DOCKER_MANIFEST, image.manifest)
    with opened(server) as source, pytest.raises(IntegrityError, match="wrong media type: "):
        source.document(image.descriptor)


@pytest.mark.parametrize("kind", ["", "application/json", "text/plain", "nonsense"])
def test_unspecific_content_type_is_ignored(
    server: FakeRegistry, make_image: Any, kind: str
) -> None:
    announce(server, "1.0", kind, make_image(b"one").manifest)
    with opened(server) as source:
        assert source.root().media_type == mediatype.OCI_MANIFEST


def test_content_type_that_contradicts_the_document_is_refused(
    server: FakeRegistry, make_image: Any
) -> None:
    announce(server, "1.0", mediatype.OCI_INDEX, make_image(b"one").manifest)
    assert "mediaType" in refused(IntegrityError, server).message


@pytest.mark.parametrize("kind", [schema1.PLAIN, schema1.SIGNED, "application/json", ""])
def test_schema_1_is_returned_without_its_signatures(server: FakeRegistry, kind: str) -> None:
    plain = schema1.manifest([schema1.step(b"blob", "make")])
    announce(server, "1.0", kind, schema1.signed(plain))
    with opened(server) as source:
        root = source.root()
        assert (root.media_type, root.digest) == (schema1.PLAIN, Digest.of(plain))
        assert source.document(root) == plain


def test_schema_1_under_the_name_of_schema_2_is_refused(server: FakeRegistry) -> None:
    announce(server, "1.0", mediatype.DOCKER_MANIFEST, b'{"schemaVersion": 1}')
    assert "schemaVersion" in refused(UnsupportedError, server).message


@pytest.mark.parametrize(
    ("answer", "size"),
    [
        ((200, b"12345", {}), 5),
        ((206, b"1", {"Content-Range": "bytes 0-0/5"}), 5),
        ((206, b"1", {"Content-Range": "bytes 0-0/*"}), None),
        ((206, b"1", {}), None),
        ((200, b"5\r\n12345\r\n0\r\n\r\n", {"Content-Length": "x", "Connection": "close"}), None),
    ],
)
def test_size_of_a_blob_is_the_registry_s(
    server: FakeRegistry, answer: tuple[int, bytes, dict[str, str]], size: int | None
) -> None:
    server.quirk = lambda request: "blobs" in request.path and request.answer(*answer)
    with opened(server) as source:
        assert isinstance(source, SizedSource)
        if size is None:
            with pytest.raises(UnsupportedError, match="unknown size"):
                source.size_of(Digest.of(b"x"))
        else:
            assert source.size_of(Digest.of(b"x")) == size


@pytest.mark.parametrize("says", [True, False])
def test_a_huge_manifest_is_not_read_to_its_end(server: FakeRegistry, says: bool) -> None:
    def quirk(request: Handler) -> bool:
        if "manifests" not in request.path:
            return False
        request.send_response(200)
        request.send_header("Connection", "close")
        if says:
            request.send_header("Content-Length", str(1 << 40))
        request.end_headers()
        for _ in range(64):
            request.wfile.write(b" " * (1 << 20))
        request.close_connection = True
        return True

    server.quirk = quirk
    assert "document too large" in refused(IntegrityError, server).message


def test_interrupted_manifest_is_requested_again(server: FakeRegistry, make_image: Any) -> None:
    manifest = make_image(b"one").manifest
    left = [2]

    def quirk(request: Handler) -> bool:
        if "manifests" not in request.path or not left[0]:
            return False
        left[0] -= 1
        request.broken(manifest, 10)
        return True

    server.quirk = quirk
    with opened(server) as source:
        assert source.document(source.root()) == manifest
    left[0] = 100
    assert "transfer interrupted" in refused(NetworkError, server).message


def test_missing_image_is_not_found(server: FakeRegistry) -> None:
    error = refused(NotFoundError, server, "app:none")
    assert error.message.endswith("/app: 'none'")
    assert "stacker tags docker://" in (error.hint or "")


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff", b"{", b"[]", b'{"errors": 1}', b'{"errors": [1]}', b'{"errors": [{"code": 1}]}'],
)
def test_any_error_body_is_handled(server: FakeRegistry, body: bytes) -> None:
    server.quirk = lambda request: "manifests" in request.path and request.answer(418, body)
    assert "registry failed: " in refused(NetworkError, server).message
