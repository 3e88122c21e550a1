"""Validators for the JSON schemas of image-spec and runtime-spec in the corpora."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jsonschema
from referencing import Registry
from referencing.jsonschema import DRAFT4

SPEC = (
    Path(os.environ.get("STACKER_CORPORA", Path(__file__).parents[2] / "../shared/corpora"))
    / "spec"
)
IMAGE_SPEC = SPEC / "image-spec-schema"
RUNTIME_SPEC = SPEC / "runtime-spec-schema"


def validator(schemas: Path, name: str) -> jsonschema.Draft4Validator:
    """Return a validator for one schema; the schemas refer to each other by file name.

    The `id` keywords inside would send relative references to the network: they go.
    """
    registry = Registry().with_resources(
        (path.name, DRAFT4.create_resource(_without_ids(json.loads(path.read_text()))))
        for path in schemas.glob("*.json")
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
