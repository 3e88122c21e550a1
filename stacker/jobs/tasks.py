"""What a worker is told to do with one layer, and what it tells of it.

Plain values, which travel between processes.  Light to import: who pulls an image that is all
here needs them, and nothing of what they set going.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stacker.tar.limits import Limits

if TYPE_CHECKING:
    from pathlib import Path

    from stacker.image.descriptor import Descriptor
    from stacker.image.digest import DiffID, Digest
    from stacker.layer.idmap import IdMap
    from stacker.layer.record import LayerRecord
    from stacker.layer.whiteout_format import WhiteoutFormat
    from stacker.source.protocol import Source


@dataclass(frozen=True, slots=True)
class LayerForm:
    """How layers are written: deletions, owners, bounds, and whether to wait for the disk.

    :param resume: keep what comes of a blob until its layer is there, for a later pull to go on.
    """

    whiteouts: WhiteoutFormat
    idmap: IdMap
    limits: Limits = field(default_factory=Limits)
    sync: bool = False
    keep_blobs: bool = False
    resume: bool = True


@dataclass(frozen=True, slots=True)
class LayerTask:
    """One layer to unpack from ``source`` into the store at ``store``.

    :param diff_id: what must come out; ``None`` where no document says (schema 1).
    """

    source: Source
    store: Path
    blob: Descriptor
    diff_id: DiffID | None
    form: LayerForm

    @property
    def what(self) -> str:
        """The layer's name for messages."""
        return f"layer {self.diff_id or f'of blob {self.blob.digest}'}"


@dataclass(frozen=True, slots=True)
class LayerUnpacked:
    """A layer is in the store; ``record`` is ``None`` when somebody else put it there."""

    diff_id: DiffID
    blob: Digest
    record: LayerRecord | None


@dataclass(frozen=True, slots=True)
class LayerProgress:
    """``done`` of a layer's ``total`` compressed bytes were read, and ``entries`` unpacked.

    :param diff_id: ``None`` while nobody knows it.
    """

    diff_id: DiffID | None
    blob: Digest
    done: int
    total: int
    entries: int
