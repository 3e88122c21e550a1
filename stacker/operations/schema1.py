"""Convert an image of schema 1 to schema 2.

A store and a source with a manifest of schema 1 come in; a source with a generated manifest and
config goes out.  The config lists diff_ids, and only unpacking computes them, so the layers are
unpacked first.  No other module of operations or jobs knows schema 1.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stacker.errors import (
    IntegrityError,
    LayerError,
    NotFoundError,
    UnsupportedError,
)
from stacker.image import mediatype
from stacker.image.config import pair_layers
from stacker.image.descriptor import Descriptor
from stacker.image.digest import DiffID
from stacker.image.schema1 import Schema1Manifest, parse_schema1
from stacker.source.protocol import ResumableSource, SizedSource, Source, read_document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import BinaryIO

    from stacker.image.digest import Digest
    from stacker.layer.paths import LayerPaths
    from stacker.layer.record import LayerRecord
    from stacker.store.store import Store
    from stacker.stream.compression import Readable
    from stacker.stream.verify import Hash

_LAYER = mediatype.DOCKER_LAYER + ".gzip"


@dataclass(frozen=True, slots=True)
class ConvertedSource:
    """A source with a generated manifest and config, and with the blobs of `source`."""

    source: Source
    chosen: Descriptor
    config: Descriptor

    @property
    def names(self) -> tuple[str, ...]:
        """The image's names in the source."""
        return self.source.names

    def root(self) -> Descriptor:
        """Return the descriptor of the manifest of schema 2."""
        return self.chosen

    def document(self, descriptor: Descriptor) -> bytes:
        """Return a document, verified; see `Source`."""
        if descriptor.digest == self.config.digest:
            return read_document(self, self.config, "config")
        return read_document(self, descriptor, "manifest")

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        """Return a file with the bytes of a blob; see `Source`."""
        return self.source.open_blob(descriptor)

    def resume_blob(self, descriptor: Descriptor, have: Readable) -> BinaryIO:
        """Return a file with the bytes of a blob; see `ResumableSource`."""
        if isinstance(self.source, ResumableSource):
            return self.source.resume_blob(descriptor, have)
        return self.source.open_blob(descriptor)


@dataclass(frozen=True, slots=True)
class UndeclaredDiffID:
    """A layer whose diff_id no document declares; see `LayerIdentity`.

    :param blob: the digest of the layer's blob.
    """

    blob: Digest

    @property
    def name(self) -> Digest:
        """The digest of the layer's blob."""
        return self.blob

    @property
    def what(self) -> str:
        """The layer's name for messages."""
        return f"layer of blob {self.blob}"

    @contextmanager
    def reserve(self, store: Store) -> Iterator[LayerPaths | DiffID]:
        """Yield staging paths; only the computed diff_id tells if the store has the layer."""
        with store.layers.unpacking_blob(self.blob) as paths:
            yield paths

    def check(
        self, chunks: Iterator[bytes], offload: Callable[[Hash], Hash]
    ) -> tuple[Iterator[bytes], Callable[[], DiffID]]:
        """Compute the diff_id of the bytes; see `LayerIdentity`."""
        from hashlib import sha256  # loads OpenSSL

        from stacker.stream.verify import hashed

        running = offload(sha256())
        return hashed(chunks, running), lambda: DiffID("sha256", running.hexdigest())

    def commit(
        self, store: Store, paths: LayerPaths, record: LayerRecord, diff_id: DiffID, *, sync: bool
    ) -> bool:
        """Commit the layer unless it is in the store by now; see `LayerIdentity`."""
        with store.layers.unpacking(diff_id) as free:
            if free is not None:
                store.layers.commit(diff_id, paths, record, sync=sync)
            return free is not None


def manifest_of(source: Source) -> Schema1Manifest | None:
    """Return a source's manifest if it has schema 1, else None.

    :raises IntegrityError: the manifest is malformed.
    """
    root = source.root()
    if root.media_type != mediatype.SCHEMA1_MANIFEST:
        return None
    return parse_schema1(source.document(root), f"{root.digest}")


def layers_of(
    store: Store, source: Source, manifest: Schema1Manifest, *, limit: int
) -> tuple[dict[Digest, tuple[Descriptor, DiffID]], list[Descriptor]]:
    """Return the layers in the store with their diff_ids, and the missing layers.

    :param limit: maximum bytes of a blob, since no document declares its size.
    :raises LayerError: a blob exceeds the limit.
    :raises NotFoundError: the source lacks a blob.
    """
    known = dict(_unpacked(store))
    found = {digest: known[digest] for digest in manifest.layers if digest in known}
    missing = [digest for digest in dict.fromkeys(manifest.layers) if digest not in found]
    return found, [_described(source, digest, limit) for digest in missing]


def _unpacked(store: Store) -> Iterator[tuple[Digest, tuple[Descriptor, DiffID]]]:
    """Yield the blobs from which layers of listed images were unpacked.

    The layer's record must list the blob: a manifest alone may pair it with any diff_id.
    """
    with store.images.read_lock():
        for image in store.images.all():
            for entry in image.manifests:
                with suppress(NotFoundError, IntegrityError, UnsupportedError):
                    config = store.images.config(image.id)
                    for blob, diff_id in pair_layers(store.images.manifest(entry), config):
                        if str(blob.digest) in store.layers.record(diff_id).blobs:
                            yield blob.digest, (blob, diff_id)


def _described(source: Source, digest: Digest, limit: int) -> Descriptor:
    if not isinstance(source, SizedSource):
        raise UnsupportedError(
            f"unknown size: layer {digest} of schema 1: got none from the source, want one"
        )
    size = source.size_of(digest)
    if size > limit:
        raise LayerError(
            f"too large: blob {digest}: got {size} bytes, want at most {limit}",
            hint="raise the limit with --max-bytes if you trust the image",
        )
    return Descriptor(_LAYER, digest, size)


def convert(
    source: Source,
    manifest: Schema1Manifest,
    layers: Mapping[Digest, tuple[Descriptor, DiffID]],
) -> ConvertedSource:
    """Return the source with a manifest of schema 2.

    :param layers: digest of a blob → its descriptor and its diff_id.
    """
    config = manifest.config([layers[digest][1] for digest in manifest.layers])
    blobs = [replace(layers[digest][0], media_type=_LAYER) for digest in manifest.layers]
    plain = [replace(blob, platform=None, annotations={}, urls=(), data=None) for blob in blobs]
    made = manifest.manifest(config, plain)
    listed = replace(made, config=replace(made.config, data=None))
    return ConvertedSource(source, listed.embedded(), made.config)
