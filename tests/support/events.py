"""One example of every event."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from stacker.events import (
    BlobProgress,
    BlobsFound,
    BlobStored,
    Event,
    ExportProgress,
    ImageCommitted,
    ImagePulled,
    LayerPacked,
    LayerProgress,
    LayerRestored,
    LayersFound,
    LayersToPack,
    LayerTimed,
    LayerUnpacked,
    MemberSent,
    MissingLayer,
    PackProgress,
    Transfer,
)
from stacker.image.descriptor import Descriptor
from stacker.image.digest import DiffID, Digest, ImageID

DIFF_ID: Final = DiffID("sha256", "d" * 64)
BLOB: Final = Digest("sha256", "b" * 64)
SCHEMA_1: Final = Digest("sha256", "1" * 64)
"""The blob of a layer without a declared diff_id."""
IMAGE: Final = ImageID("sha256", "a" * 64)
DESCRIPTOR: Final = Descriptor("application/vnd.tests", BLOB, 10)
EVENTS: Final[tuple[Event, ...]] = (
    LayersFound(
        (MissingLayer(DIFF_ID, BLOB, 10), MissingLayer(SCHEMA_1, SCHEMA_1, 10)), (DIFF_ID,)
    ),
    LayerProgress(DIFF_ID, BLOB, done=5, total=10, entries=2),
    LayerUnpacked(DIFF_ID, BLOB, None),
    LayerTimed(DIFF_ID, {"read": 0.5}, 10),
    LayersToPack(((DIFF_ID, 20),)),
    PackProgress(DIFF_ID, done=10, total=20),
    LayerPacked(DIFF_ID, BLOB, 10, Path("/packed")),
    ExportProgress(done=512, total=None),
    BlobsFound((DESCRIPTOR,)),
    BlobProgress(BLOB, done=5, total=10),
    BlobStored(BLOB, Transfer.MOUNTED),
    MemberSent(DESCRIPTOR, sent=True),
    LayerRestored(DIFF_ID, "oci:app"),
    ImagePulled(IMAGE, DESCRIPTOR, unpacked=1, layers=(DIFF_ID,), moved=(("app:1", IMAGE),)),
    ImageCommitted(IMAGE, IMAGE, DIFF_ID, entries=1),
)
"""In an order in which a command might report them: a layer is found before it is unpacked."""
