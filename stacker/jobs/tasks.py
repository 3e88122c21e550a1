"""The task of a worker that unpacks a layer: which layer, from where, and how.

All types are plain values that travel between processes by pickle.
Every pull imports this module, so it must not import what a worker uses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from stacker.tar.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from stacker.image.descriptor import Descriptor
    from stacker.image.digest import DiffID, Digest
    from stacker.layer.metadata import IdMap
    from stacker.layer.paths import Form, LayerPaths
    from stacker.layer.record import LayerRecord
    from stacker.layer.whiteout_format import WhiteoutFormat
    from stacker.source.protocol import Source
    from stacker.store.store import Store
    from stacker.stream.verify import Hash


@dataclass(frozen=True, slots=True)
class UnpackOptions:
    """How layers are unpacked.

    :param whiteout_format: how deletions are written.
    :param idmap: how owners are mapped.
    :param limits: bounds of what one layer may contain.
    :param sync: flush each layer to disk before publishing it.
    :param keep_blobs: keep the blobs of layers in the store.
    :param form: the form of the image; ``None`` for that of the layers in the store, and the form
        ``tree`` for new layers.
    :param resume: keep the part of a blob that an interrupted pull received, and resume from it.
    """

    whiteout_format: WhiteoutFormat
    idmap: IdMap
    limits: Limits = field(default_factory=Limits)
    sync: bool = False
    keep_blobs: bool = False
    resume: bool = True
    form: Form | None = None


class LayerIdentity(Protocol):
    """Which layer a task unpacks; a plain value that can be pickled.

    A config declares the diff_id (`DeclaredDiffID`), except in schema 1, where unpacking
    computes it.
    """

    @property
    def name(self) -> DiffID | Digest:
        """The diff_id, or the blob's digest where no document declares a diff_id."""

    @property
    def what(self) -> str:
        """The layer's name for messages."""

    def reserve(self, store: Store) -> AbstractContextManager[LayerPaths | DiffID]:
        """Return the staging paths to unpack into, or the diff_id if the layer is in the store."""

    def check(
        self, chunks: Iterator[bytes], offload: Callable[[Hash], Hash]
    ) -> tuple[Iterator[bytes], Callable[[], DiffID]]:
        """Return the layer's uncompressed bytes, and a function that gives their diff_id.

        :param chunks: the uncompressed bytes; the function may be called after the last one.
        :param offload: moves a hash to the thread that runs it.
        """

    def commit(
        self, store: Store, paths: LayerPaths, record: LayerRecord, diff_id: DiffID, *, sync: bool
    ) -> bool:
        """Commit the layer; return False if another process has already committed it."""


@dataclass(frozen=True, slots=True)
class UnpackTask:
    """One layer to unpack from a source into a store."""

    source: Source
    store: Store
    blob: Descriptor
    identity: LayerIdentity
    options: UnpackOptions

    @property
    def what(self) -> str:
        """The layer's name for messages."""
        return self.identity.what
