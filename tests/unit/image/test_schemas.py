"""Generated documents validate against the JSON schemas of image-spec."""

from __future__ import annotations

import jsonschema
import pytest

from stacker.image import mediatype
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest
from stacker.image.manifest import Index, Manifest
from stacker.image.platform import Platform
from tests.support.schemas import IMAGE_SPEC, validator

pytestmark = pytest.mark.skipif(
    not IMAGE_SPEC.is_dir(), reason=f"no image-spec schemas in {IMAGE_SPEC}"
)

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


@pytest.mark.parametrize("descriptor", [FULL, PLAIN, LAYER])
def test_a_descriptor_validates(descriptor: Descriptor) -> None:
    validator(IMAGE_SPEC, "content-descriptor.json").validate(descriptor.to_json())


@pytest.mark.parametrize("annotations", [{}, {"a": "b"}])
def test_a_manifest_validates(annotations: dict[str, str]) -> None:
    manifest = Manifest(mediatype.OCI_MANIFEST, PLAIN, (LAYER, LAYER), annotations)
    validator(IMAGE_SPEC, "image-manifest-schema.json").validate(manifest.to_json())


@pytest.mark.parametrize("entries", [(), (FULL,), (FULL, PLAIN)])
def test_an_index_validates(entries: tuple[Descriptor, ...]) -> None:
    index = Index(mediatype.OCI_INDEX, entries, {"a": "b"})
    validator(IMAGE_SPEC, "image-index-schema.json").validate(index.to_json())


def test_the_schemas_can_refuse() -> None:
    wrong = Manifest(mediatype.OCI_MANIFEST, PLAIN, (LAYER,)).to_json() | {"schemaVersion": 3}
    with pytest.raises(jsonschema.ValidationError):
        validator(IMAGE_SPEC, "image-manifest-schema.json").validate(wrong)
    with pytest.raises(jsonschema.ValidationError):
        validator(IMAGE_SPEC, "image-manifest-schema.json").validate(
            {"schemaVersion": 2, "config": {}}
        )
