"""Every event that a pull, a push, a copy, an export or a benchmark reports while it runs.

A worker or an operation creates an event and passes it to `Emit`; the command line prints it.
`Event` is a closed union: a ``match`` over it ends with `typing.assert_never`.
An event is a plain value that travels between processes by pickle; it never holds a file or a lock.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from stacker.image.descriptor import Descriptor
    from stacker.image.digest import DiffID, Digest, ImageID
    from stacker.layer.record import LayerRecord

# Events are named tuples because every pull imports this module: Python defines a named tuple
# eight times as fast as a frozen dataclass.


class MissingLayer(NamedTuple):
    """A layer that the store lacks.

    :param name: the diff_id, or the blob's digest if no document declares the diff_id (schema 1).
    :param size: the size of the blob, in bytes.
    """

    name: DiffID | Digest
    blob: Digest
    size: int


class LayersFound(NamedTuple):
    """A pull knows which layers it must unpack, and which ones the store already has."""

    missing: tuple[MissingLayer, ...]
    present: tuple[DiffID, ...]


class LayerProgress(NamedTuple):
    """A worker has read ``done`` of ``total`` bytes of a blob, and unpacked ``entries``.

    :param name: the diff_id, or the blob's digest if no document declares the diff_id (schema 1).
    """

    name: DiffID | Digest
    blob: Digest
    done: int
    total: int
    entries: int


class LayerUnpacked(NamedTuple):
    """The store has a layer.

    :param record: ``None`` if another process unpacked the layer first.
    """

    diff_id: DiffID
    blob: Digest
    record: LayerRecord | None


class LayerRestored(NamedTuple):
    """A method needed a layer that was missing or damaged, and has unpacked it again.

    :param origin: the source that had it.
    """

    diff_id: DiffID
    origin: str


class LayerTimed(NamedTuple):
    """A benchmark has measured a layer.

    :param seconds: spent in each stage of `stacker.stream.stages.STAGES`.
    """

    diff_id: DiffID
    seconds: Mapping[str, float]
    blob_bytes: int


class LayersToPack(NamedTuple):
    """A push knows which layers it must compress, with their uncompressed sizes in bytes."""

    layers: tuple[tuple[DiffID, int], ...]


class PackProgress(NamedTuple):
    """A worker has read ``done`` of ``total`` uncompressed bytes of a layer."""

    diff_id: DiffID
    done: int
    total: int


class LayerPacked(NamedTuple):
    """A worker has compressed a layer into the file ``path``, a blob of ``size`` bytes."""

    diff_id: DiffID
    digest: Digest
    size: int
    path: Path


class ExportProgress(NamedTuple):
    """The file of an export has ``done`` of ``total`` bytes.

    :param total: ``None`` until the whole file is written, if its size is not known before.
    """

    done: int
    total: int | None


class BlobsFound(NamedTuple):
    """A push or a copy knows which blobs the destination must have."""

    blobs: tuple[Descriptor, ...]


class BlobProgress(NamedTuple):
    """The destination has received ``done`` of ``total`` bytes of a blob."""

    digest: Digest
    done: int
    total: int


class Transfer(Enum):
    """How a destination got a blob."""

    SENT = "sent"
    MOUNTED = "mounted"
    PRESENT = "present"


class BlobStored(NamedTuple):
    """The destination has a blob."""

    digest: Digest
    transfer: Transfer


class MemberSent(NamedTuple):
    """The destination has a member of an index.

    :param sent: ``False`` if the destination already had it.
    """

    descriptor: Descriptor
    sent: bool


class ImagePulled(NamedTuple):
    """A pull has listed an image.

    :param manifest: the image's manifest in the source.
    :param unpacked: the number of layers that this pull unpacked.
    :param present: the number of layers that the store had, or that another process unpacked.
    :param warnings: what the layers of this pull have that stacker changed or ignored.
    :param layers: the layers that this pull unpacked.
    :param moved: names that another image had before, each with that image.
    """

    image_id: ImageID
    manifest: Descriptor
    unpacked: int = 0
    present: int = 0
    warnings: tuple[str, ...] = ()
    layers: tuple[DiffID, ...] = ()
    moved: tuple[tuple[str, ImageID], ...] = ()


class ImageCommitted(NamedTuple):
    """A commit has listed an image.

    :param base: the image that was mounted.
    :param diff_id: the new layer.
    :param entries: the members of its tar.
    :param warnings: what a layer cannot hold.
    """

    image_id: ImageID
    base: ImageID
    diff_id: DiffID
    entries: int
    warnings: tuple[str, ...] = ()


Event: TypeAlias = (
    LayersFound
    | LayerProgress
    | LayerUnpacked
    | LayerTimed
    | LayerRestored
    | ImagePulled
    | ImageCommitted
    | LayersToPack
    | PackProgress
    | LayerPacked
    | ExportProgress
    | BlobsFound
    | BlobProgress
    | BlobStored
    | MemberSent
)
Emit: TypeAlias = Callable[[Event], None]
"""Reports an event; the caller of a worker or an operation provides it."""


class Throttle:
    """Limits how often progress is reported: every 1 MiB or every 1000 entries.

    :param total: the number of bytes at which a report is always due; ``None`` if the caller
        reports the end itself.
    """

    _BYTES = 1 << 20
    _ENTRIES = 1000

    def __init__(self, total: int | None = None) -> None:
        self._total = total
        self._done = self._entries = 0

    def is_due(self, done: int, entries: int = 0) -> bool:
        """Return whether to report now, given all bytes and entries so far."""
        if not (
            done - self._done >= self._BYTES
            or entries - self._entries >= self._ENTRIES
            or done == self._total
        ):
            return False
        self._done, self._entries = done, entries
        return True
