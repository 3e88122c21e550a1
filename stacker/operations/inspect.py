"""Read the documents of an image in a source, without pulling it.

A source and a platform come in; an `Inspected` goes out.  This module reads no layer, and does not
use the store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, UnsupportedError
from stacker.image import mediatype
from stacker.image.config import ImageConfig, parse_config
from stacker.image.manifest import Index, Manifest, parse_document
from stacker.source.resolve import resolve

if TYPE_CHECKING:
    from stacker.image.descriptor import Descriptor
    from stacker.image.platform import Platform
    from stacker.source.protocol import Source


@dataclass(frozen=True, slots=True)
class Inspected:
    """An image of a source.

    :param root: the manifest that the source names, or the index.
    :param entries: the entries of that index; none without an index.
    :param descriptor: the manifest of the image.
    """

    root: Descriptor
    entries: tuple[Descriptor, ...]
    descriptor: Descriptor
    manifest: Manifest
    config: ImageConfig


def inspect_source(source: Source, platform: Platform, *, must_match: bool = False) -> Inspected:
    """Return the image of a source for a platform.

    :param must_match: refuse an image for another platform, even if it is the only one.
    :raises NotFoundError: no image matches.
    :raises IntegrityError: a document is malformed, or differs from its digest.
    :raises UnsupportedError: an image of Docker schema 1, which has no config.
    """
    root = source.root()
    if root.media_type == mediatype.SCHEMA1_MANIFEST:
        raise UnsupportedError(
            f"no config: image {root.digest} of Docker schema 1",
            hint="--raw prints its manifest; `stacker pull` converts the image",
        )
    descriptor = resolve(source, platform, must_match=must_match)
    top = _parsed(source, root)
    manifest = _parsed(source, descriptor)
    if not isinstance(manifest, Manifest):
        raise IntegrityError(f"manifest {descriptor.digest}: got an index, want a manifest")
    config = parse_config(source.document(manifest.config), f"config {manifest.image_id}")
    entries = top.manifests if isinstance(top, Index) else ()
    return Inspected(root, entries, descriptor, manifest, config)


def _parsed(source: Source, descriptor: Descriptor) -> Manifest | Index:
    return parse_document(
        source.document(descriptor),
        media_type=descriptor.media_type or None,
        what=f"{descriptor.digest}",
    )
