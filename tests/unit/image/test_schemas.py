"""Generated documents validate against the JSON schemas of image-spec."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jsonschema
import pytest
from referencing import Registry
from referencing.jsonschema import DRAFT4

from stacker.image import mediatype
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest
from stacker.image.manifest import Index, Manifest
from stacker.image.platform import Platform

CORPORA = os.environ.get("STACKER_CORPORA", Path(__file__).parents[3] / "../shared/corpora")
SCHEMAS = Path(CORPORA) / "spec" / "image-spec-schema"

pytestmark = pytest.mark.skipif(not SCHEMAS.is_dir(), reason=f"no image-spec schemas in {SCHEMAS}")

FULL = Descriptor(
    mediatype.OCI_MANIFEST,
    Digest.of(b"{}"),
    2,
    Platform("linux", "arm", "v7", "6.1"),
    {"org.opencontainers.image.ref.name": "1.0"},
    ("https://registry.example/blob",),
    b"{}",
)
PLAIN = Descriptor(mediatype.OCI_CONFIG, Digest.of(b"{}"), 2)
LAYER = Descriptor(mediatype.OCI_LAYER, Digest.of(b""), 0)


def validator(name: str) -> jsonschema.Draft4Validator:
    """Return a validator for one schema; the schemas refer to each other by file name.

    The `id` keywords inside would send relative references to the network: they go.
    """
    registry = Registry().with_resources(
        (path.name, DRAFT4.create_resource(_without_ids(json.loads(path.read_text()))))
        for path in SCHEMAS.glob("*.json")
    )
    return jsonschema.Draft4Validator({"$ref": name}, registry=registry)


def _without_ids(schema: object) -> object:
    if isinstance(schema, dict):
        return {
            key: _without_ids(value)
            for key, value in schema.items()
            if not (key == "id" and isinstance(value, str))
        }
    return [_without_ids(item) for item in schema] if isinstance(schema, list) else schema


@pytest.mark.parametrize("descriptor", [FULL, PLAIN, LAYER])
def test_a_descriptor_validates(descriptor: Descriptor) -> None:
    validator("content-descriptor.json").validate(descriptor.to_json())


@pytest.mark.parametrize("annotations", [{}, {"a": "b"}])
def test_a_manifest_validates(annotations: dict[str, str]) -> None:
    manifest = Manifest(mediatype.OCI_MANIFEST, PLAIN, (LAYER, LAYER), annotations)
    validator("image-manifest-schema.json").validate(manifest.to_json())


@pytest.mark.parametrize("entries", [(), (FULL,), (FULL, PLAIN)])
def test_an_index_validates(entries: tuple[Descriptor, ...]) -> None:
    index = Index(mediatype.OCI_INDEX, entries, {"a": "b"})
    validator("image-index-schema.json").validate(index.to_json())


def test_the_schemas_can_refuse() -> None:
    wrong = Manifest(mediatype.OCI_MANIFEST, PLAIN, (LAYER,)).to_json() | {"schemaVersion": 3}
    with pytest.raises(jsonschema.ValidationError):
        validator("image-manifest-schema.json").validate(wrong)
    with pytest.raises(jsonschema.ValidationError):
        validator("image-manifest-schema.json").validate({"schemaVersion": 2, "config": {}})
