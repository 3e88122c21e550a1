"""Which entry of an index to take: the one that suits a platform best.

In come descriptors, out comes one of them.  What stands behind a descriptor is not read here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, NotFoundError
from stacker.image import mediatype
from stacker.image.descriptor import Descriptor
from stacker.image.document import objects, optional, parse_object
from stacker.image.manifest import refuse_ambiguity, refuse_schema_1
from stacker.image.platform import rank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stacker.image.descriptor import Descriptor
    from stacker.image.platform import Platform


def choose(candidates: Sequence[Descriptor], wanted: Platform, what: str) -> Descriptor:
    """Return the entry of an index that suits `wanted` best; of equals, the first.

    A machine takes its own variant, then lower ones (arm: v7, v6, v5; amd64: v4 down to v1);
    an entry without a variant is amd64 v1, arm64 v8, or the last resort of an arm.  An entry
    without a platform is taken where no other suits and there is just one.  Attestations
    (``unknown/unknown``) and media types that are no image are passed over.

    :param what: the index's name for messages.
    :raises NotFoundError: nothing suits; the message lists the platforms that are there.
    Source: image-spec image-index.md, "manifests" and "Platform Variants".
    """
    images = [entry for entry in candidates if is_image(entry)]
    best = min(
        (entry for entry in images if rank(entry.platform, wanted) is not None),
        key=lambda entry: rank(entry.platform, wanted) or 0,
        default=None,
    )
    if best is not None:
        return best
    nameless = [entry for entry in images if entry.platform is None]
    if len(nameless) == 1:
        return nameless[0]
    there = ", ".join(dict.fromkeys(_shown(entry) for entry in images)) or "none"
    raise NotFoundError(f"choose platform: {what}: got {there}, want {wanted.shown}")


def demand(offered: Platform, wanted: Platform, what: str) -> None:
    """See that an image for which no index speaks is of the platform that was asked for.

    :param what: names the image in a message, by its digest or ID.
    :raises NotFoundError: it is for another platform.
    """
    if rank(offered, wanted) is None:
        raise NotFoundError(
            f"no matching platform: image {what}: got {offered.shown}, want {wanted.shown}"
        )


def is_image(entry: Descriptor) -> bool:
    """Return whether an index entry is an image or an index, and no attestation about one."""
    if entry.media_type not in mediatype.MANIFESTS | mediatype.INDEXES:
        return False
    # BuildKit files attestations in the index beside the images they are about.
    return entry.platform is None or "unknown" not in (
        entry.platform.os,
        entry.platform.architecture,
    )


def _shown(entry: Descriptor) -> str:
    return "no platform" if entry.platform is None else entry.platform.shown


# FOLDED from stacker.image.selection
# """What a document refers to, whatever it is about: an image, an index, an attestation.
#
# In come a document's bytes, out come descriptors.  Who copies a document need not understand it,
# so media types are not judged here, as `manifest` does for who unpacks.
# """


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
