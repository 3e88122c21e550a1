"""Manifests and indexes: the documents that list the parts of an image, or several images.

The bytes of a document and its declared media type come in; a `Manifest`, an `Index`, or the
`References` of either go out.  OCI 1.x and Docker's schema 2 differ only in media types.  This
module does not verify digests, and must not know where the bytes come from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, UnsupportedError
from stacker.image import mediatype
from stacker.image.descriptor import Descriptor
from stacker.image.digest import ImageID
from stacker.image.document import (
    objects,
    optional,
    parse_object,
    quoted,
    required,
    string_map,
    to_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_SCHEMA_VERSION = 2


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image for one platform: its config and its layers, base first.

    Source: image-spec manifest.md.
    """

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def image_id(self) -> ImageID:
        """The image ID: the digest of the config."""
        return ImageID.recast(self.config.digest)

    def to_json(self) -> dict[str, object]:
        """Return the manifest as a JSON object (image-spec, manifest.md)."""
        return _members(
            self,
            config=self.config.to_json(),
            layers=[layer.to_json() for layer in self.layers],
        )

    def embedded(self) -> Descriptor:
        """Return a descriptor with this document embedded."""
        return Descriptor.embedding(self.media_type, to_bytes(self.to_json()))


@dataclass(frozen=True, slots=True)
class Index:
    """Several images, usually one per platform (image-spec image-index.md)."""

    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)

    def to_json(self) -> dict[str, object]:
        """Return the index as a JSON object (image-spec, image-index.md)."""
        return _members(self, manifests=[entry.to_json() for entry in self.manifests])

    def embedded(self) -> Descriptor:
        """Return a descriptor with this document embedded."""
        return Descriptor.embedding(self.media_type, to_bytes(self.to_json()))


def _members(document: Manifest | Index, **parts: object) -> dict[str, object]:
    members = {
        "schemaVersion": _SCHEMA_VERSION,
        "mediaType": document.media_type,
        **parts,
    }
    if document.annotations:
        members["annotations"] = dict(document.annotations)
    return members


@dataclass(frozen=True, slots=True)
class References:
    """The descriptors in a document, in its order.

    :param documents: the manifests and indexes in an index.
    :param blobs: the config and layers of a manifest.
    """

    documents: tuple[Descriptor, ...] = ()
    blobs: tuple[Descriptor, ...] = ()


def parse_document(raw: bytes, *, media_type: str | None, what: str) -> Manifest | Index:
    """Return the manifest or index in `raw`.

    Source: image-spec manifest.md, image-index.md; Docker's Image Manifest V2, Schema 2.

    :param media_type: from the descriptor or the registry, if known.
    :param what: the document's name for messages.
    :raises IntegrityError: malformed, over `DOCUMENT_LIMIT`, of another type than `media_type`,
        or both a manifest and an index.
    :raises UnsupportedError: schema 1, or an unsupported media type of the document, its config
        or a layer.
    """
    members, kind = _opened(raw, media_type, what)
    if kind in mediatype.INDEXES:
        return _parse_index(members, kind, what)
    return _parse_manifest(members, kind, what)


def type_of(raw: bytes, *, media_type: str | None, what: str) -> str:
    """Return the media type of the manifest or index in `raw`.

    The types of its config and layers are not checked, so that attestations can be copied.

    :param media_type: see `parse_document`.
    :raises IntegrityError: see `parse_document`; only what determines the type is checked.
    :raises UnsupportedError: schema 1, or neither a manifest nor an index.
    """
    return _opened(raw, media_type, what)[1]


def references(raw: bytes, what: str) -> References:
    """Return the descriptors in the manifest or index `raw`, of any media type.

    A ``subject`` is not one of them, since it may be missing.
    Source: image-spec manifest.md and image-index.md.

    :param what: the document's name for messages.
    :raises IntegrityError: malformed, both a manifest and an index, or neither.
    :raises UnsupportedError: schema 1, which lists blobs without their sizes.
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


def _opened(raw: bytes, announced: str | None, what: str) -> tuple[dict[str, object], str]:
    members = parse_object(raw, what)
    _check_version(members, what)
    refuse_ambiguity(members, what)
    kind = _media_type(members, announced, what)
    if kind not in mediatype.INDEXES | mediatype.MANIFESTS:
        raise UnsupportedError(
            f"{what}: media type: got {quoted(kind)}, want that of a manifest or an index"
        )
    return members, kind


def refuse_schema_1(members: dict[str, object], what: str) -> None:
    """Refuse schema 1, which lists neither a config nor the sizes of its layers.

    :raises UnsupportedError: `members` is of schema 1.
    """
    version = members.get("schemaVersion")
    if version == 1 and version is not True:
        raise UnsupportedError(
            f"{what}: schemaVersion: got 1, want {_SCHEMA_VERSION}",
            hint="`stacker pull` from a registry converts it to schema 2, and `stacker push` "
            "sends the result",
        )


def _check_version(members: dict[str, object], what: str) -> None:
    version = required(members, "schemaVersion", int, what)
    refuse_schema_1(members, what)
    if version != _SCHEMA_VERSION:
        raise IntegrityError(f"{what}: schemaVersion: got {quoted(version)}, want 2")


def refuse_ambiguity(members: dict[str, object], what: str) -> None:
    """Refuse a document that is a manifest to one parser and an index to another.

    Go's encoding/json ignores the case of field names, and treats the long s as an s ("foldName"),
    as `casefold` does.  See CVE-2021-41190.

    :raises IntegrityError: the document has fields of both, or field names that differ in case.
    """
    names = {name.casefold() for name in members}
    if len(names) != len(members):
        raise IntegrityError(f"{what}: got fields that differ in case only, want each once")
    if "manifests" in names and not names.isdisjoint({"config", "layers", "fslayers"}):
        raise IntegrityError(f"{what}: got a manifest that is also an index, want one of them")


def _media_type(members: dict[str, object], announced: str | None, what: str) -> str:
    stated = optional(members, "mediaType", str, what)
    if stated and announced and stated != announced:
        raise IntegrityError(f"{what}: mediaType: got {quoted(stated)}, want {quoted(announced)}")
    # OCI documents may omit their type, Docker's must not.
    by_shape = mediatype.OCI_INDEX if "manifests" in members else mediatype.OCI_MANIFEST
    return stated or announced or by_shape


def _parse_index(members: dict[str, object], kind: str, what: str) -> Index:
    if "manifests" not in members:
        raise IntegrityError(f"{what}: manifests: got nothing, want a list")
    entries = objects(members, "manifests", what)
    return Index(
        kind,
        tuple(Descriptor.from_json(e, f"{what}: manifests[{i}]") for i, e in enumerate(entries)),
        string_map(members, "annotations", what),
    )


def _parse_manifest(members: dict[str, object], kind: str, what: str) -> Manifest:
    if "layers" not in members:
        raise IntegrityError(f"{what}: layers: got nothing, want a list")
    config = Descriptor.from_json(required(members, "config", dict, what), f"{what}: config")
    misnamed = mediatype.MISNAMED_CONFIGS if kind == mediatype.DOCKER_MANIFEST else frozenset()
    if config.media_type not in mediatype.CONFIGS | misnamed:
        raise UnsupportedError(
            f"{what}: config: media type: got {quoted(config.media_type)}, want an image's config"
        )
    layers = objects(members, "layers", what)
    return Manifest(
        kind,
        config,
        tuple(_parse_layer(layer, f"{what}: layers[{i}]") for i, layer in enumerate(layers)),
        string_map(members, "annotations", what),
    )


def _parse_layer(members: dict[str, object], where: str) -> Descriptor:
    layer = Descriptor.from_json(members, where)
    if layer.media_type not in mediatype.LAYERS:
        raise UnsupportedError(
            f"{where}: media type: got {quoted(layer.media_type)}, want a tar layer"
        )
    return layer


def _descriptors(members: dict[str, object], name: str, what: str) -> tuple[Descriptor, ...]:
    listed = objects(members, name, what)
    return tuple(
        Descriptor.from_json(obj, f"{what}: {name}[{number}]") for number, obj in enumerate(listed)
    )
