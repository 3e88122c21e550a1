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
from stacker.image.selection import choose_platform, require_platform

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stacker.image.descriptor import Descriptor
    from stacker.image.platform import Platform
    from stacker.source.protocol import Source

_INDEXES_IN_INDEXES = 8
_INDEXES_IN_ALL = 100


def resolve(source: Source, platform: Platform, *, must_match: bool = False) -> Descriptor:
    """Return the manifest of the image in `source` that suits `platform` best.

    :param must_match: require the platform of an image, too, of which no index says it.
    :raises NotFoundError: none suits.
    :raises IntegrityError: indexes in one another without an end.
    """
    descriptor = source.root()
    for _ in range(_INDEXES_IN_INDEXES):
        document = _index(source, descriptor)
        if document is None:
            if must_match and not has_index_platform(source, descriptor):
                _check(source, descriptor, platform)
            return descriptor
        descriptor = _chosen(source, document, platform, f"index {descriptor.digest}")
    raise _too_deep(source)


def has_index_platform(source: Source, descriptor: Descriptor) -> bool:
    """Return whether an index says what platform `descriptor` is for; else its config does.

    The index has the last word: it is where a platform can be put right that a config has wrong.
    """
    return descriptor.platform is not None and descriptor != source.root()


def _chosen(source: Source, index: Index, platform: Platform, what: str) -> Descriptor:
    """Return the entry that suits best; indexes that say no platform are read if none does."""
    try:
        return choose_platform(index.manifests, platform, what)
    except NotFoundError:
        entries = list(_spread(source, index, iter(range(_INDEXES_IN_ALL))))
        return choose_platform(entries, platform, what)


def _spread(
    source: Source, index: Index, budget: Iterator[int], depth: int = 0
) -> Iterator[Descriptor]:
    """Give an index's entries, those of each index in it that says no platform in its place.

    :param budget: ends after as many items as indexes may be read.
    :raises IntegrityError: too many, or too many in one another.
    """
    if depth == _INDEXES_IN_INDEXES:
        raise _too_deep(source)
    for entry in index.manifests:
        is_open = entry.platform is None and entry.media_type in mediatype.INDEXES
        inner = _index(source, entry) if is_open and next(budget, None) is not None else None
        if inner is not None:
            yield from _spread(source, inner, budget, depth + 1)
        elif is_open:
            raise _too_deep(source)
        else:
            yield entry


def _too_deep(source: Source) -> IntegrityError:
    return IntegrityError(
        f"indexes too deep: {source.root().digest}: got more than {_INDEXES_IN_INDEXES} indexes "
        f"in one another, or {_INDEXES_IN_ALL} in all, want a manifest"
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
    require_platform(config.platform, platform, str(found.image_id))
