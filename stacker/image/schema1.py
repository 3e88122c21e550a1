"""Manifests of schema 1, as Docker wrote them before 1.10, and their conversion to schema 2.

A document comes in; its layers go out.  When the caller knows the diff_ids of the layers, a config
and a manifest of schema 2 go out.  Signatures are removed but not verified, because their keys are
not published.  This module does not fetch layers.
Source: distribution's "Image Manifest Version 2, Schema 1"; RFC 7515 for the signatures' form.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError
from stacker.image import mediatype
from stacker.image.config import parse_config
from stacker.image.descriptor import Descriptor
from stacker.image.digest import DiffID, Digest
from stacker.image.document import objects, optional, parse_object, quoted, required, strings
from stacker.image.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stacker.image.platform import Platform

# Fields of a step that do not belong to a config.
_NOT_CONFIG = ("id", "parent", "Size", "parent_id", "layer_id", "throwaway")
_BEFORE_TIME = "0001-01-01T00:00:00Z"  # Go's zero time
# Go's JSON encoder escapes these, so other programs compute the same image ID.
_ESCAPED = str.maketrans({char: f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"})


@dataclass(frozen=True, slots=True)
class Schema1Manifest:
    """An image of schema 1.

    :param layers: the blobs of its layers, base first, without those of empty steps.
    :param steps: the ``v1Compatibility`` object of each build step, oldest first.
    :param what: the document's name for messages.
    """

    layers: tuple[Digest, ...]
    steps: tuple[Mapping[str, object], ...]
    what: str

    @property
    def platform(self) -> Platform:
        """The platform of the image.

        :raises IntegrityError: the last step has no valid config.
        """
        return parse_config(self.config(()), self.what).platform

    def config(self, diff_ids: Sequence[DiffID]) -> bytes:
        """Return a config with the fields of the last step and with `diff_ids`."""
        members = {key: value for key, value in self.steps[-1].items() if key not in _NOT_CONFIG}
        members["rootfs"] = {"type": "layers", "diff_ids": [str(d) for d in diff_ids]}
        members["history"] = [_history(step, self.what) for step in self.steps]
        ordered = {key: members[key] for key in sorted(members)}
        text = json.dumps(ordered, ensure_ascii=False, separators=(",", ":"))
        return text.translate(_ESCAPED).encode()

    def manifest(self, config: bytes, layers: Sequence[Descriptor]) -> Manifest:
        """Return a manifest of schema 2 with a config and the layers' blobs."""
        return Manifest(
            mediatype.DOCKER_MANIFEST,
            Descriptor.embedding(mediatype.DOCKER_CONFIG, config),
            tuple(layers),
        )


def is_schema1(raw: bytes, what: str) -> bool:
    """Return whether a document declares schema 1.

    :raises IntegrityError: the document is not a JSON object.
    """
    return parse_object(raw, what).get("schemaVersion") == 1


def signed_payload(raw: bytes, what: str) -> bytes:
    """Return the signed part of a schema 1 document: the bytes that its digest covers.

    :raises IntegrityError: malformed, or the signatures have different payloads.
    """
    members = parse_object(raw, what)
    if "signatures" not in members:
        return raw
    signatures = objects(members, "signatures", what)
    found = {_signed(raw, one, f"{what}: signatures[{i}]") for i, one in enumerate(signatures)}
    if len(found) != 1:
        raise IntegrityError(f"{what}: signatures: got {len(found)} payloads, want one")
    return found.pop()


def _signed(raw: bytes, signature: dict[str, object], where: str) -> bytes:
    protected = _decoded(required(signature, "protected", str, where), f"{where}: protected")
    members = parse_object(protected, f"{where}: protected")
    length = required(members, "formatLength", int, where)
    tail = _decoded(required(members, "formatTail", str, where), f"{where}: formatTail")
    if not 0 <= length <= len(raw):
        raise IntegrityError(f"{where}: formatLength: got {quoted(length)}, want 0 to {len(raw)}")
    return raw[:length] + tail


def _decoded(text: str, where: str) -> bytes:
    from base64 import b64decode

    try:
        return b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise IntegrityError(f"{where}: got {quoted(text)}, want base64url") from None


def parse_schema1(raw: bytes, what: str) -> Schema1Manifest:
    """Return the image in a payload of schema 1.

    Each step must name the step before it as its parent, and the first one must have no parent.
    Consecutive repetitions of a step count once.

    :param what: the document's name for messages.
    :raises IntegrityError: malformed.
    """
    members = parse_object(raw, what)
    names = {name.casefold() for name in members}
    if len(names) != len(members) or not names.isdisjoint({"config", "layers", "manifests"}):
        raise IntegrityError(f"{what}: got fields of two schemas, want those of schema 1 only")
    blobs = [
        _digest(required(layer, "blobSum", str, f"{what}: fsLayers[{i}]"), f"{what}: fsLayers[{i}]")
        for i, layer in enumerate(objects(members, "fsLayers", what))
    ]
    steps = [
        _step(required(step, "v1Compatibility", str, f"{what}: history[{i}]"), members, i, what)
        for i, step in enumerate(objects(members, "history", what))
    ]
    if not steps or len(steps) != len(blobs):
        raise IntegrityError(
            f"{what}: got {len(blobs)} fsLayers and {len(steps)} steps of history, "
            "want the same number of both, at least one"
        )
    pairs = _chained(list(zip(blobs, steps, strict=True))[::-1], what)
    made = tuple(blob for blob, step in pairs if not _is_empty(step, what))
    return Schema1Manifest(made, tuple(step for _, step in pairs), what)


def _step(text: str, manifest: dict[str, object], number: int, what: str) -> Mapping[str, object]:
    where = f"{what}: history[{number}]"
    step = parse_object(text.encode(), where)
    required(step, "id", str, where)
    if number == 0:
        # Very old images have the architecture in the manifest, or not at all.
        architecture = optional(manifest, "architecture", str, what) or "amd64"
        step.setdefault("architecture", architecture)
        step.setdefault("os", "linux")
    return step


def _chained(
    pairs: list[tuple[Digest, Mapping[str, object]]], what: str
) -> list[tuple[Digest, Mapping[str, object]]]:
    """Check that each step's parent is the step before; drop immediate repetitions."""
    kept: list[tuple[Digest, Mapping[str, object]]] = []
    seen: set[object] = set()
    for blob, step in pairs:
        before = kept[-1][1].get("id") if kept else ""
        name, parent = step.get("id"), step.get("parent") or ""
        if kept and name == before:
            kept.pop()  # the later step has the config
        elif parent != before or name in seen:
            raise IntegrityError(
                f"{what}: history: parent of {quoted(name)}: got {quoted(parent)}, "
                f"want {quoted(before)}"
            )
        seen.add(name)
        kept.append((blob, step))
    return kept


def _is_empty(step: Mapping[str, object], what: str) -> bool:
    return optional(dict(step), "throwaway", bool, f"{what}: history") or False


def _history(step: Mapping[str, object], what: str) -> dict[str, object]:
    members, where = dict(step), f"{what}: history"
    container = optional(members, "container_config", dict, where) or {}
    entry: dict[str, object] = {
        "created": optional(members, "created", str, where) or _BEFORE_TIME,
        "author": optional(members, "author", str, where),
        "created_by": " ".join(strings(container, "Cmd", where)),
        "comment": optional(members, "comment", str, where),
        "empty_layer": _is_empty(step, what),
    }
    return {key: value for key, value in entry.items() if value}


def _digest(text: str, where: str) -> Digest:
    try:
        return Digest.parse(text)
    except IntegrityError as error:
        raise IntegrityError(f"{where}: blobSum: {error.message}") from None
