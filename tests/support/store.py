"""Layers in a store, without an image."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import BinaryIO

from stacker.events import Event
from stacker.image import mediatype
from stacker.image.descriptor import Descriptor
from stacker.image.digest import DiffID, Digest
from stacker.jobs.tasks import UnpackOptions, UnpackTask
from stacker.jobs.unpack_layer import DeclaredDiffID, unpack_layer
from stacker.layer.metadata import SQUASH
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.store.store import Store


@dataclass(frozen=True)
class OneBlob:
    """A source of one blob and of no documents."""

    data: bytes
    names: tuple[str, ...] = ()

    def root(self) -> Descriptor:
        raise AssertionError

    def document(self, descriptor: Descriptor) -> bytes:
        raise AssertionError(descriptor)

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        del descriptor
        return io.BytesIO(self.data)


def unpack(store: Store, layer: bytes) -> list[Event]:
    """Unpack a layer, an uncompressed tar, into the store; return the events."""
    events: list[Event] = []
    task = UnpackTask(
        OneBlob(layer),
        store,
        Descriptor(mediatype.OCI_LAYER, Digest.of(layer), len(layer)),
        DeclaredDiffID(DiffID.of(layer)),
        UnpackOptions(WhiteoutFormat.USER, SQUASH),
    )
    unpack_layer(task, events.append)
    return events
