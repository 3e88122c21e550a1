"""The one image that is meant, through an index where there is one.

In come a source and a platform, out comes the descriptor of a manifest.  What its layers are is not
known here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, NotFoundError
from stacker.image import mediatype
from stacker.image.config import parse_config
from stacker.image.manifest import Index, Manifest, parse_document
from stacker.image.platform import fits
from stacker.image.selection import choose

if TYPE_CHECKING:
    from stacker.image.descriptor import Descriptor
    from stacker.image.platform import Platform
    from stacker.source.protocol import Source

_INDEXES_IN_INDEXES = 8


def resolved(source: Source, platform: Platform, *, must_match: bool = False) -> Descriptor:
    """Return the manifest of the image in `source` that suits `platform` best.

    :param must_match: demand the platform of a single image, too, whose config says it.
    :raises NotFoundError: none suits.
    :raises IntegrityError: indexes in one another without an end.
    """
    descriptor = source.root()
    for _ in range(_INDEXES_IN_INDEXES):
        document = _index(source, descriptor)
        if document is None:
            if must_match and descriptor == source.root():
                _check(source, descriptor, platform)
            return descriptor
        descriptor = choose(document.manifests, platform, f"index {descriptor.digest}")
    raise IntegrityError(
        f"indexes too deep: {source.root().digest}: got more than {_INDEXES_IN_INDEXES} indexes "
        "in one another, want a manifest"
    )


def _index(source: Source, descriptor: Descriptor) -> Index | None:
    """Return what `descriptor` leads to, if that is an index.

    A manifest is not looked at when its descriptor says that it is one.
    """
    if descriptor.media_type and descriptor.media_type not in mediatype.INDEXES:
        return None
    document = parse_document(
        source.document(descriptor),
        media_type=descriptor.media_type or None,
        what=f"{descriptor.digest}",
    )
    return document if isinstance(document, Index) else None


def _check(source: Source, descriptor: Descriptor, platform: Platform) -> None:
    what = f"manifest {descriptor.digest}"
    found = parse_document(
        source.document(descriptor), media_type=descriptor.media_type or None, what=what
    )
    if not isinstance(found, Manifest):
        raise IntegrityError(f"{what}: got an index, want a manifest")
    config = parse_config(source.document(found.config), f"config {found.image_id}")
    if not fits(config.platform, platform):
        raise NotFoundError(
            f"no matching platform: image {found.image_id}: got {config.platform}, want {platform}"
        )
