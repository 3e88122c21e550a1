"""Find the manifest for a platform, through indexes if there are any.

A source and a platform come in; the descriptor of a manifest goes out.  This module does not read
layers.
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

_DEEPEST_INDEX = 8
_MOST_INDEXES = 100


def resolve(source: Source, platform: Platform, *, must_match: bool = False) -> Descriptor:
    """Return the manifest in `source` that matches `platform` best.

    :param must_match: check the platform in the config of an image that is in no index.
    :raises NotFoundError: no manifest matches.
    :raises IntegrityError: the indexes are nested too deeply.
    """
    descriptor = source.root()
    for _ in range(_DEEPEST_INDEX):
        document = _index(source, descriptor)
        if document is None:
            if must_match and not has_index_platform(source, descriptor):
                _check(source, descriptor, platform)
            return descriptor
        descriptor = _chosen(source, document, platform, f"index {descriptor.digest}")
    raise _too_deep(source)


def has_index_platform(source: Source, descriptor: Descriptor) -> bool:
    """Return whether an index declares the platform of `descriptor`.

    An index takes precedence over a config: it can correct a wrong platform.
    """
    return descriptor.platform is not None and descriptor != source.root()


def _chosen(source: Source, index: Index, platform: Platform, what: str) -> Descriptor:
    """Return the best entry, if necessary from nested indexes without a platform."""
    try:
        return choose_platform(index.manifests, platform, what)
    except NotFoundError:
        entries = list(_expanded(source, index, iter(range(_MOST_INDEXES))))
        return choose_platform(entries, platform, what)


def _expanded(
    source: Source, index: Index, budget: Iterator[int], depth: int = 0
) -> Iterator[Descriptor]:
    """Yield an index's entries, with nested indexes that have no platform expanded.

    :param budget: yields one item per index that may still be read.
    :raises IntegrityError: too many indexes, or nested too deeply.
    """
    if depth == _DEEPEST_INDEX:
        raise _too_deep(source)
    for entry in index.manifests:
        is_nested = entry.platform is None and entry.media_type in mediatype.INDEXES
        inner = _index(source, entry) if is_nested and next(budget, None) is not None else None
        if inner is not None:
            yield from _expanded(source, inner, budget, depth + 1)
        elif is_nested:
            raise _too_deep(source)
        else:
            yield entry


def _too_deep(source: Source) -> IntegrityError:
    return IntegrityError(
        f"too many nested indexes: {source.root().digest}: got more than {_DEEPEST_INDEX} levels "
        f"or {_MOST_INDEXES} indexes, want a manifest"
    )


def _index(source: Source, descriptor: Descriptor) -> Index | None:
    """Return the index that `descriptor` describes, None for a manifest.

    A document whose descriptor declares a manifest is not read.
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
