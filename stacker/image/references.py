"""What a document refers to, whatever it is about: an image, an index, an attestation.

In come a document's bytes, out come descriptors.  Who copies a document need not understand it,
so media types are not judged here, as `manifest` does for who unpacks.
"""

from __future__ import annotations

from dataclasses import dataclass

from stacker.errors import IntegrityError
from stacker.image.descriptor import Descriptor
from stacker.image.document import objects, optional, parse_object
from stacker.image.manifest import refuse_ambiguity, refuse_schema_1


@dataclass(frozen=True, slots=True)
class References:
    """The descriptors in a document, in its order.

    :param documents: manifests and indexes that an index lists.
    :param blobs: a manifest's config and layers.
    """

    documents: tuple[Descriptor, ...] = ()
    blobs: tuple[Descriptor, ...] = ()


def references(raw: bytes, what: str) -> References:
    """Return what the manifest or index `raw` refers to.

    :param what: the document's name for messages.
    :raises IntegrityError: malformed, both a manifest and an index, or neither.
    :raises UnsupportedError: it is of schema 1, which lists blobs without their sizes.
    Source: image-spec manifest.md and image-index.md; a `subject` need not be there, so it is
    none of them.
    """
    members = parse_object(raw, what)
    refuse_schema_1(members, what)
    refuse_ambiguity(members, what)
    if "manifests" in members:
        return References(documents=_descriptors(members, "manifests", what))
    config = optional(members, "config", dict, what)
    if config is None or "layers" not in members:
        raise IntegrityError(f"{what}: got neither manifests nor config and layers, want either")
    layers = _descriptors(members, "layers", what)
    return References(blobs=(Descriptor.from_json(config, f"{what}: config"), *layers))


def _descriptors(members: dict[str, object], name: str, what: str) -> tuple[Descriptor, ...]:
    listed = objects(members, name, what)
    return tuple(
        Descriptor.from_json(obj, f"{what}: {name}[{number}]") for number, obj in enumerate(listed)
    )
