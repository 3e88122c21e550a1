"""The chain: each stage passes the observer, once, however a layer's blob arrives."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import pytest

from stacker.events import Event, LayerProgress
from stacker.image.descriptor import Descriptor
from stacker.image.digest import DiffID
from stacker.image.manifest import Manifest, parse_document
from stacker.jobs.tasks import UnpackOptions, UnpackTask
from stacker.jobs.unpack_layer import DeclaredDiffID, unpack_layer
from stacker.layer.metadata import IdMap
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.operations.schema1 import UndeclaredDiffID
from stacker.source.open import open_source
from stacker.source.protocol import Source
from stacker.store.store import Store
from stacker.stream.compression import Readable
from stacker.stream.stages import STAGES, StageObserver
from tests.support import images
from tests.support.tars import file, tar

Item = TypeVar("Item")
TAR = tar(file("a", random.Random(1).randbytes(3 << 20)), file("b", b"2"))


class Seen(StageObserver):
    """Notes the stages in the order in which they are shown to it."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def iterate(self, stage: str, items: Iterator[Item]) -> Iterator[Item]:
        self.stages.append(stage)
        return items

    def measure(self, stage: str) -> AbstractContextManager[object]:
        self.stages.append(stage)
        return nullcontext()


@dataclass(frozen=True)
class Slow:
    """A source whose blobs are worth resuming; what is resumed is noted in a file."""

    source: Source
    notes: Path
    names: tuple[str, ...] = ()

    def root(self) -> Descriptor:
        return self.source.root()

    def document(self, descriptor: Descriptor) -> bytes:
        return self.source.document(descriptor)

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        return self.source.open_blob(descriptor)

    def resume_blob(self, descriptor: Descriptor, have: Readable) -> BinaryIO:
        del have
        self.notes.write_text("resumed")
        return self.source.open_blob(descriptor)


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Slow]:
    layout = images.layout(tmp_path / "layout", [TAR])
    with open_source(layout.source, spool=tmp_path) as source:
        yield Slow(source, tmp_path / "notes")


def blob_of(source: Source) -> Descriptor:
    root = source.root()
    found = parse_document(source.document(root), media_type=root.media_type, what="it")
    assert isinstance(found, Manifest)
    return found.layers[0]


@pytest.mark.parametrize("keep", [False, True], ids=["", "kept"])
@pytest.mark.parametrize("resume", [False, True], ids=["afresh", "resumable"])
@pytest.mark.parametrize("is_known", [False, True], ids=["schema 1", "schema 2"])
def test_observer_sees_every_stage_once(
    slow: Slow, tmp_path: Path, is_known: bool, resume: bool, keep: bool
) -> None:
    diff_id = DiffID.parse(images.digest_of(TAR))
    options = UnpackOptions(
        WhiteoutFormat.permitted(), IdMap.permitted(), keep_blobs=keep, resume=resume
    )
    store = Store.open(tmp_path / "store")
    blob = blob_of(slow)
    if resume:  # an earlier pull left what is right so far
        with store.partials.locked(blob.digest) as partial, slow.open_blob(blob) as file:
            assert partial is not None
            partial.path.write_bytes(file.read(1 << 20))
    identity = DeclaredDiffID(diff_id) if is_known else UndeclaredDiffID(blob.digest)
    task = UnpackTask(slow, store, blob, identity, options)
    events: list[Event] = []
    seen = Seen()
    unpacked = unpack_layer(task, events.append, seen)
    assert sorted(seen.stages) == sorted(STAGES)
    assert (unpacked.diff_id, unpacked.blob) == (diff_id, blob.digest)
    assert unpacked.record is not None
    assert unpacked.record.entries == 2
    assert slow.notes.exists() is resume
    assert store.blobs.has(blob.digest) is keep
    assert not list((store.root / "partial").glob("*"))
    last = events[-1]
    assert isinstance(last, LayerProgress)
    assert (last.done, last.entries) == (blob.size, 2)
    assert last.name == (diff_id if is_known else blob.digest)
