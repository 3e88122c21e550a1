"""Converting an image of schema 1: its layers, and the manifest and config that result."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from dataclasses import dataclass
from typing import BinaryIO

import pytest

from stacker.errors import (
    IntegrityError,
    LayerError,
    NotFoundError,
    UnsupportedError,
)
from stacker.events import ImagePulled
from stacker.image import mediatype
from stacker.image.config import parse_config
from stacker.image.descriptor import Descriptor
from stacker.image.digest import DiffID, Digest, ImageID
from stacker.image.manifest import Manifest, parse_document
from stacker.image.platform import Platform
from stacker.image.schema1 import Schema1Manifest
from stacker.jobs.tasks import UnpackOptions
from stacker.layer.metadata import IdMap
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.operations.pull import pull_image
from stacker.operations.schema1 import UndeclaredDiffID, convert, layers_of, manifest_of
from stacker.store.store import Store
from stacker.stream.compression import Readable
from tests.support.schema1 import EMPTY, Step, manifest, step
from tests.support.tars import file, tar, whiteout

LOWER = tar(file("a", b"1"), file("b", b"2"))
UPPER = tar(whiteout("b"), file("c", b"3"))
STEPS = [
    step(gzip.compress(LOWER, mtime=0), "add files"),
    step(EMPTY, "ENV a=b", throwaway=True),
    step(gzip.compress(UPPER, mtime=0), "rm b", config={"Cmd": ["/c"]}),
]
LINUX = Platform("linux", "amd64")
LIMIT = 1 << 30


@dataclass
class OldRegistry:
    """A source with an image of schema 1 that declares the sizes of its blobs."""

    raw: bytes
    blobs: dict[Digest, bytes]
    media_type: str = mediatype.SCHEMA1_MANIFEST
    names: tuple[str, ...] = ("registry.example/app:1.0",)

    def root(self) -> Descriptor:
        return Descriptor(self.media_type, Digest.of(self.raw), len(self.raw))

    def document(self, descriptor: Descriptor) -> bytes:
        assert descriptor.digest == Digest.of(self.raw)
        return self.raw

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        return io.BytesIO(self.blobs[descriptor.digest])

    def resume_blob(self, descriptor: Descriptor, have: Readable) -> BinaryIO:
        del descriptor, have
        return io.BytesIO(b"resumed")

    def size_of(self, digest: Digest) -> int:
        try:
            return len(self.blobs[digest])
        except KeyError:
            raise NotFoundError(f"not found: {digest}") from None


class SilentRegistry:
    """A source with an image of schema 1 that does not declare sizes or resume blobs."""

    def __init__(self, source: OldRegistry) -> None:
        self.names = source.names
        self.root = source.root
        self.document = source.document
        self.open_blob = source.open_blob


def served(*steps: Step) -> OldRegistry:
    blobs = {Digest.of(one.blob): one.blob for one in steps}
    return OldRegistry(manifest(steps), blobs)


def legacy(source: OldRegistry) -> Schema1Manifest:
    found = manifest_of(source)
    assert found is not None
    return found


def digest(one: Step) -> Digest:
    return Digest.parse(one.digest)


def pulled(store: Store, source: OldRegistry) -> ImagePulled:
    return pull_image(
        store,
        source,
        platform=LINUX,
        options=UnpackOptions(WhiteoutFormat.permitted(), IdMap.permitted()),
        jobs=1,
        origin="docker://registry.example/app:1.0",
        emit=lambda _: None,
    )


def test_manifest_of_schema_1_lists_the_layers_base_first() -> None:
    assert legacy(served(*STEPS)).layers == (digest(STEPS[0]), digest(STEPS[2]))


def test_manifest_of_another_type_is_not_converted() -> None:
    source = served(*STEPS)
    source.media_type = mediatype.OCI_MANIFEST
    assert manifest_of(source) is None


def test_malformed_manifest_is_refused() -> None:
    source = served(*STEPS)
    source.raw = b'{"schemaVersion": 1}'
    with pytest.raises(IntegrityError):
        manifest_of(source)


def test_layers_that_the_store_lacks_are_described_with_their_sizes(store: Store) -> None:
    source = served(*STEPS)
    found, missing = layers_of(store, source, legacy(source), limit=LIMIT)
    assert not found
    assert [(blob.digest, blob.size) for blob in missing] == [
        (digest(one), len(one.blob)) for one in (STEPS[0], STEPS[2])
    ]
    assert {blob.media_type for blob in missing} == {mediatype.DOCKER_LAYER + ".gzip"}


def test_layer_that_occurs_twice_is_described_once(store: Store) -> None:
    source = served(STEPS[0], STEPS[2], STEPS[0])
    _, missing = layers_of(store, source, legacy(source), limit=LIMIT)
    assert [blob.digest for blob in missing] == [digest(STEPS[0]), digest(STEPS[2])]


def test_blob_over_the_limit_is_refused(store: Store) -> None:
    source = served(*STEPS)
    largest = max(len(STEPS[0].blob), len(STEPS[2].blob))
    with pytest.raises(LayerError, match=f"want at most {largest - 1}") as caught:
        layers_of(store, source, legacy(source), limit=largest - 1)
    assert "--max-bytes" in (caught.value.hint or "")
    layers_of(store, source, legacy(source), limit=largest)


def test_missing_blob_is_not_found(store: Store) -> None:
    source = served(*STEPS)
    del source.blobs[digest(STEPS[2])]
    with pytest.raises(NotFoundError):
        layers_of(store, source, legacy(source), limit=LIMIT)


def test_source_without_sizes_is_unsupported(store: Store) -> None:
    source = served(*STEPS)
    with pytest.raises(UnsupportedError, match="unknown size"):
        layers_of(store, SilentRegistry(source), legacy(source), limit=LIMIT)


def test_converted_image_lists_the_computed_diff_ids(store: Store) -> None:
    source = served(*STEPS)
    result = pulled(store, source)
    config = store.images.config(result.image_id)
    assert config.diff_ids == (DiffID.of(LOWER), DiffID.of(UPPER))
    assert [bool(one.empty_layer) for one in config.history] == [False, True, False]
    assert config.execution.cmd == ("/c",)
    assert result.unpacked == 2


def test_layers_of_a_pulled_image_are_found_by_their_blobs(store: Store) -> None:
    source = served(*STEPS)
    pulled(store, source)
    found, missing = layers_of(store, source, legacy(source), limit=LIMIT)
    assert not missing
    assert {blob: diff_id for blob, (_, diff_id) in found.items()} == {
        digest(STEPS[0]): DiffID.of(LOWER),
        digest(STEPS[2]): DiffID.of(UPPER),
    }


def test_layer_of_a_removed_image_is_missing(store: Store) -> None:
    source = served(*STEPS)
    pulled(store, source)
    (store.layers.paths(DiffID.of(UPPER)).record).unlink()
    _, missing = layers_of(store, source, legacy(source), limit=LIMIT)
    assert [blob.digest for blob in missing] == [digest(STEPS[2])]


def test_second_pull_gives_the_same_image_without_reading_a_layer(store: Store) -> None:
    first = pulled(store, served(*STEPS))
    source = served(*STEPS)
    source.blobs.clear()
    second = pulled(store, source)
    assert (second.image_id, second.unpacked, second.present) == (first.image_id, 0, 2)


def test_undeclared_diff_id_is_named_by_its_blob() -> None:
    blob = Digest.of(b"blob")
    assert UndeclaredDiffID(blob).name == blob
    assert UndeclaredDiffID(blob).what == f"layer of blob {blob}"


def test_undeclared_diff_id_is_computed_from_the_stream() -> None:
    identity = UndeclaredDiffID(Digest.of(b"blob"))
    chunks, diff_id = identity.check(iter([b"la", b"yer"]), lambda running: running)
    assert b"".join(chunks) == b"layer"
    assert diff_id() == DiffID.of(b"layer")


def test_converted_source_serves_a_manifest_of_schema_2() -> None:
    source = served(*STEPS)
    layers = {
        digest(one): (
            Descriptor(
                mediatype.OCI_LAYER,
                digest(one),
                len(one.blob),
                annotations={"from": "elsewhere"},
                urls=("https://elsewhere.example/layer",),
            ),
            DiffID.of(plain),
        )
        for one, plain in ((STEPS[0], LOWER), (STEPS[2], UPPER))
    }
    converted = convert(source, legacy(source), layers)
    assert converted.names == source.names
    root = converted.root()
    raw = converted.document(root)
    assert hashlib.sha256(raw).hexdigest() == root.digest.hex
    found = parse_document(raw, media_type=root.media_type, what="it")
    assert isinstance(found, Manifest)
    assert found.media_type == mediatype.DOCKER_MANIFEST
    assert [blob.to_json() for blob in found.layers] == [
        {
            "mediaType": mediatype.DOCKER_LAYER + ".gzip",
            "digest": one.digest,
            "size": len(one.blob),
        }
        for one in (STEPS[0], STEPS[2])
    ]
    config = converted.document(found.config)
    assert ImageID.of(config) == found.image_id
    assert parse_config(config, "it").diff_ids == (DiffID.of(LOWER), DiffID.of(UPPER))
    assert "data" not in json.loads(raw)["config"]


@pytest.mark.parametrize("can_resume", [False, True])
def test_converted_source_resumes_blobs_if_its_source_can(can_resume: bool) -> None:
    source = served(STEPS[0])
    layers = {digest(STEPS[0]): (Descriptor("x", digest(STEPS[0]), 1), DiffID.of(LOWER))}
    origin = source if can_resume else SilentRegistry(source)
    converted = convert(origin, legacy(source), layers)
    blob = Descriptor("x", digest(STEPS[0]), len(STEPS[0].blob))
    assert converted.open_blob(blob).read() == STEPS[0].blob
    resumed = converted.resume_blob(blob, io.BytesIO(b"start")).read()
    assert resumed == (b"resumed" if can_resume else STEPS[0].blob)
