"""Descriptors: every field is checked, and embedded data must match the digest."""

from __future__ import annotations

import base64
import pickle

import pytest

from stacker.errors import IntegrityError
from stacker.image import mediatype
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest
from stacker.image.platform import Platform

CONTENT = b"{}"
PLAIN: dict[str, object] = {
    "mediaType": mediatype.OCI_CONFIG,
    "digest": str(Digest.of(CONTENT)),
    "size": len(CONTENT),
}


def test_every_field_is_read() -> None:
    read = Descriptor.from_json(
        PLAIN
        | {
            "platform": {"os": "linux", "architecture": "arm", "variant": "v7", "os.version": "6"},
            "annotations": {"a": "b"},
            "urls": ["https://registry.example/x"],
            "data": base64.b64encode(CONTENT).decode(),
            "artifactType": "ignored/type",
        },
        "entry",
    )
    assert read == Descriptor(
        mediatype.OCI_CONFIG,
        Digest.of(CONTENT),
        2,
        Platform("linux", "arm", "v7", "6"),
        {"a": "b"},
        ("https://registry.example/x",),
        CONTENT,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": -1}, "size: got -1"),
        ({"size": True}, "size: got True, want an integer"),
        ({"size": 2.0}, "size: got 2.0, want an integer"),
        ({"size": "2"}, "size: got '2', want an integer"),
        ({"size": 2**63}, "size: got 9223372036854775808"),
        ({"size": 10**400}, "size: got a huge number"),
        ({"size": None}, "size: got nothing"),
        ({"digest": "sha256:12"}, "Digest: got 'sha256:12'"),
        ({"digest": 5}, "digest: got 5, want a string"),
        ({"mediaType": None}, "mediaType: got nothing"),
        ({"annotations": {"a": 1}}, "annotations: 'a': got 1"),
        ({"urls": "https://registry.example"}, "urls: got "),
        ({"platform": {"os": "linux"}}, "platform: architecture: got nothing"),
        ({"platform": "linux"}, "platform: got 'linux'"),
        ({"data": "***"}, "want base64"),
        ({"data": "é"}, "want base64"),
        ({"data": base64.b64encode(b"[]").decode()}, "data: got sha256:"),
        ({"data": base64.b64encode(b"{} ").decode()}, "data: got 3 bytes, want 2"),
        ({"data": ""}, "data: got 0 bytes, want 2"),
    ],
)
def test_wrong_field_is_refused_with_its_position(change: dict[str, object], message: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        Descriptor.from_json(PLAIN | change, "index: manifests[3]")
    assert "index: manifests[3]: " in caught.value.message
    assert message in caught.value.message


@pytest.mark.parametrize("obj", [None, [], "x", 1])
def test_non_object_is_not_a_descriptor(obj: object) -> None:
    with pytest.raises(IntegrityError, match="want an object"):
        Descriptor.from_json(obj, "entry")


def test_an_empty_blob_may_be_embedded() -> None:
    empty = PLAIN | {"digest": str(Digest.of(b"")), "size": 0, "data": ""}
    assert Descriptor.from_json(empty, "entry").data == b""


def test_verify_distinguishes_size_and_digest() -> None:
    descriptor = Descriptor.from_json(PLAIN, "entry")
    descriptor.verify(CONTENT, "config")
    with pytest.raises(IntegrityError, match="wrong size: config: got 3 bytes, want 2"):
        descriptor.verify(b"{} ", "config")
    with pytest.raises(IntegrityError, match=r"wrong digest: config: got sha256:.*, want sha256:"):
        descriptor.verify(b"[]", "config")


def test_verify_uses_the_digests_own_algorithm() -> None:
    import hashlib

    digest = Digest("sha512", hashlib.sha512(CONTENT).hexdigest())
    Descriptor(mediatype.OCI_CONFIG, digest, 2).verify(CONTENT, "config")


def test_descriptor_is_hashable_and_can_be_pickled() -> None:
    descriptor = Descriptor.from_json(PLAIN | {"annotations": {"a": "b"}}, "entry")
    assert len({descriptor, Descriptor.from_json(PLAIN, "entry")}) == 2
    assert pickle.loads(pickle.dumps(descriptor)) == descriptor


@pytest.mark.parametrize("media_type", sorted(mediatype.LAYERS))
def test_media_type_decides_whether_a_layer_is_foreign(media_type: str) -> None:
    expected = "nondistributable" in media_type or "foreign" in media_type
    assert Descriptor(media_type, Digest.of(b""), 0).is_foreign is expected
