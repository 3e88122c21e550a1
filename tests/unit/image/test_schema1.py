"""Manifests of schema 1, and the documents generated from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from stacker.errors import IntegrityError
from stacker.image.config import parse_config
from stacker.image.descriptor import Descriptor
from stacker.image.digest import DiffID, Digest
from stacker.image.manifest import parse_document
from stacker.image.schema1 import is_schema1, parse_schema1, signed_payload
from tests.support.schema1 import EMPTY, chained, encoded, manifest, signed, step

STEPS = [
    step(b"lower", "add files"),
    step(EMPTY, "ENV a=b", throwaway=True),
    step(b"upper", "touch x && echo <y>", author="somebody", comment="last", config={"Env": ["a"]}),
]
DIFF_IDS = (DiffID.of(b"l"), DiffID.of(b"u"))


def refused(raw: bytes, parse: Callable[[bytes, str], object] = parse_schema1) -> str:
    with pytest.raises(IntegrityError) as caught:
        parse(raw, "the manifest")
    assert caught.value.message.startswith("the manifest")
    return caught.value.message


def test_layers_are_listed_base_first_without_empty_steps() -> None:
    found = parse_schema1(manifest(STEPS), "m")
    assert found.layers == (Digest.of(b"lower"), Digest.of(b"upper"))
    assert len(found.steps) == 3


def test_a_layer_may_occur_twice() -> None:
    steps = [step(b"same", "one"), step(b"other", "two"), step(b"same", "three")]
    assert len(parse_schema1(manifest(steps), "m").layers) == 3


def test_config_has_the_fields_of_the_last_step() -> None:
    raw = parse_schema1(manifest(STEPS), "m").config(DIFF_IDS)
    config = parse_config(raw, "c")
    assert config.diff_ids == DIFF_IDS
    assert str(config.platform) == "linux/amd64"
    assert (config.author, config.execution.env) == ("somebody", ("a",))
    assert [(one.created_by, one.empty_layer) for one in config.history] == [
        ("/bin/sh -c add files", False),
        ("/bin/sh -c ENV a=b", True),
        ("/bin/sh -c touch x && echo <y>", False),
    ]
    assert config.history[2].comment == "last"
    members = json.loads(raw)
    assert not set(members) & {"id", "parent", "Size", "throwaway"}
    assert members["docker_version"] == "1.9.1"
    assert list(members) == sorted(members)
    assert b"&" not in raw  # Go's JSON encoder escapes it
    assert b"<" not in raw


def test_an_old_image_without_a_platform_has_that_of_the_manifest() -> None:
    steps = [step(b"x", "y")]
    for key in ("os", "architecture"):
        del steps[0].image[key]
    assert str(parse_schema1(manifest(steps, architecture="arm"), "m").platform) == "linux/arm"
    assert str(parse_schema1(manifest(steps, architecture=None), "m").platform) == "linux/amd64"


def test_generated_manifest_has_schema_2() -> None:
    found = parse_schema1(manifest(STEPS), "m")
    blobs = [
        Descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", d, 5) for d in found.layers
    ]
    made = found.manifest(found.config(DIFF_IDS), blobs)
    again = parse_document(made.embedded().data or b"", media_type=made.media_type, what="m")
    assert again == made


def test_immediately_repeated_step_counts_once() -> None:
    images = chained(STEPS)
    twice = [images[0], images[0], *images[1:]]
    blobs = [STEPS[0], *STEPS]
    raw = manifest(
        STEPS,
        fsLayers=[{"blobSum": one.digest} for one in reversed(blobs)],
        history=[{"v1Compatibility": json.dumps(i)} for i in reversed(twice)],
    )
    assert parse_schema1(raw, "m").layers == (Digest.of(b"lower"), Digest.of(b"upper"))


# Signatures


def test_payload_of_a_signed_manifest_is_the_unsigned_one() -> None:
    plain = manifest(STEPS)
    assert signed_payload(plain, "m") == plain
    assert signed(plain) != plain
    assert signed_payload(signed(plain), "m") == plain
    assert signed_payload(signed(plain, plain, plain), "m") == plain
    assert is_schema1(signed(plain), "m")
    assert not is_schema1(b"{}", "m")


def test_signatures_of_different_payloads_are_refused() -> None:
    plain = manifest(STEPS)
    assert "got 2 payloads" in refused(signed(plain, plain, plain + b" "), signed_payload)


def with_signature(**changes: Any) -> bytes:
    protected = {"formatLength": 1, "formatTail": encoded(b"}"), **changes.pop("protected", {})}
    one = {"protected": encoded(json.dumps(protected).encode()), **changes}
    return json.dumps({"schemaVersion": 1, "signatures": [one]}).encode()


@pytest.mark.parametrize(
    "raw",
    [
        b'{"schemaVersion": 1, "signatures": []}',
        b'{"schemaVersion": 1, "signatures": 1}',
        b'{"schemaVersion": 1, "signatures": [{}]}',
        with_signature(protected={"formatLength": -1}),
        with_signature(protected={"formatLength": 1 << 40}),
        with_signature(protected={"formatLength": "1"}),
        with_signature(protected={"formatTail": "***"}),
        with_signature(protected={"formatTail": "a"}),
        with_signature(protected={"formatTail": "\u00e4"}),
        with_signature(protected={"formatTail": None}),
    ],
)
def test_a_malformed_signature_is_refused(raw: bytes) -> None:
    refused(raw, signed_payload)


# Malformed manifests


@pytest.mark.parametrize(
    "changes",
    [
        {"fsLayers": []},
        {"fsLayers": [], "history": []},
        {"fsLayers": None, "history": None},
        {"fsLayers": [{"blobSum": "sha256:1"}] * 3},
        {"fsLayers": [{}] * 3},
        {"history": [{"v1Compatibility": "{}"}] * 3},
        {"history": [{"v1Compatibility": "nonsense"}] * 3},
        {"history": [{"v1Compatibility": "[]"}] * 3},
        {"history": [{}] * 3},
        {"config": {}},
        {"layers": []},
        {"manifests": []},
        {"FSLayers": []},
    ],
)
def test_a_malformed_manifest_is_refused(changes: dict[str, Any]) -> None:
    refused(manifest(STEPS, **changes))


def test_step_with_another_parent_is_refused() -> None:
    images = chained(STEPS)
    for wrong in ({**images[0], "parent": "x"}, {**images[0], "id": "x"}):
        history = [*images[:0:-1], wrong]
        raw = manifest(STEPS, history=[{"v1Compatibility": json.dumps(i)} for i in history])
        assert "parent" in refused(raw)


@pytest.mark.parametrize(
    "image", [{"throwaway": 1}, {"created": 1}, {"container_config": 1}, {"config": 1}]
)
def test_a_step_with_a_field_of_the_wrong_type_is_refused(image: dict[str, Any]) -> None:
    raw = manifest([step(b"x", "y", **image)])
    refused(raw, lambda data, what: parse_schema1(data, what).platform)
