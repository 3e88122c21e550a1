"""One layer from a blob into a store: which error wins, and nothing unverified is committed."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import pytest
import zstandard

from stacker.errors import IntegrityError, LayerError
from stacker.image.descriptor import Descriptor
from stacker.image.digest import DiffID, Digest
from stacker.jobs.tasks import UnpackOptions, UnpackTask
from stacker.jobs.unpack_layer import DeclaredDiffID, unpack_layer
from stacker.layer.metadata import SQUASH
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.store.store import Store
from stacker.stream.compression import CHUNK
from stacker.tar.limits import Limits
from tests.support.tars import END, char, file, symlink, tar

IGNORED: list[object] = []
BIG = os.urandom(300_000)
"""A blob of more than 64 KiB is worked on in several threads, a smaller one in one."""


@dataclass(frozen=True)
class OneBlob:
    """A source of a single blob."""

    content: bytes
    names: tuple[str, ...] = ()

    def root(self) -> Descriptor:
        raise NotImplementedError

    def document(self, descriptor: Descriptor) -> bytes:
        raise NotImplementedError

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:  # noqa: ARG002 - the role's
        return io.BytesIO(self.content)


@dataclass(frozen=True)
class Bench:
    store: Store

    def task(self, plain: bytes, blob: bytes, **limits: int) -> UnpackTask:
        descriptor = Descriptor("application/x", Digest.of(blob), len(blob))
        options = UnpackOptions(WhiteoutFormat.USER, SQUASH, Limits(**limits))
        return UnpackTask(
            OneBlob(blob), self.store, descriptor, DeclaredDiffID(DiffID.of(plain)), options
        )

    def refuses(self, task: UnpackTask, error: type[Exception], match: str) -> None:
        with pytest.raises(error, match=match):
            unpack_layer(task, IGNORED.append)
        assert list(self.store.layers.all()) == []
        assert os.listdir(self.store.staging.root) == []
        assert (
            list(self.store.blobs.root.rglob("*")) == [] if self.store.blobs.root.exists() else True
        )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(Store.open(tmp_path / "store"))


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


each_size = pytest.mark.parametrize("content", [b"small", BIG], ids=["one thread", "threads"])
each_form = pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd])
Compress = Callable[[bytes], bytes]


@each_size
@each_form
def test_a_good_layer_is_committed(bench: Bench, compress: Compress, content: bytes) -> None:
    plain = tar(file("d/x", content)) + b"rubbish after the end"
    task = bench.task(plain, compress(plain))
    done = unpack_layer(task, IGNORED.append)
    assert done.record is not None
    assert done.record.tar_bytes == len(plain)
    assert (bench.store.layers.paths(done.diff_id).diff / "d/x").read_bytes() == content
    assert unpack_layer(task, IGNORED.append).record is None, "it is there already"


HOSTILE = char("evil", 0, 0)


@each_size
@each_form
def test_a_hostile_layer_with_the_right_digests_is_a_layer_error(
    bench: Bench, compress: Compress, content: bytes
) -> None:
    plain = tar(HOSTILE, file("x", content))
    bench.refuses(bench.task(plain, compress(plain)), LayerError, "overlay whiteout in a layer")


@each_size
@each_form
@pytest.mark.parametrize(
    "plain", [tar(HOSTILE, end=False), file("a")[:-12] + b"x" * 512, symlink("l", "")]
)
def test_a_malformed_layer_with_a_wrong_diff_id_is_an_integrity_error(
    bench: Bench, compress: Compress, content: bytes, plain: bytes
) -> None:
    plain += file("x", content) + END
    task = replace(
        bench.task(plain, compress(plain)), identity=DeclaredDiffID(DiffID.of(b"another"))
    )
    bench.refuses(task, IntegrityError, "wrong digest: layer")


@each_size
@each_form
def test_a_malformed_layer_in_a_wrong_blob_is_an_integrity_error(
    bench: Bench, compress: Compress, content: bytes
) -> None:
    plain = tar(HOSTILE, file("x", content))
    task = bench.task(plain, compress(plain))
    wrong = replace(task.blob, digest=Digest.of(b"another"))
    bench.refuses(replace(task, blob=wrong), IntegrityError, "wrong digest: blob")


@each_size
@each_form
def test_a_truncated_blob_is_an_integrity_error_at_every_place(
    bench: Bench, compress: Compress, content: bytes
) -> None:
    plain = tar(file("x", content), file("y"))
    blob = compress(plain)
    for cut in {0, 1, 3, 100, len(blob) // 2, len(blob) - 513, len(blob) - 1} & set(
        range(len(blob))
    ):
        task = replace(bench.task(plain, blob), source=OneBlob(blob[:cut]))
        bench.refuses(task, IntegrityError, r"truncated|corrupt")


@each_size
@each_form
def test_blob_longer_than_its_descriptor_is_an_integrity_error(
    bench: Bench, compress: Compress, content: bytes
) -> None:
    plain = tar(file("x", content))
    blob = compress(plain)
    task = replace(bench.task(plain, blob), source=OneBlob(blob + b"\0"))
    bench.refuses(task, IntegrityError, "wrong size: blob")


@each_form
def test_a_blob_that_is_only_another_s_beginning_is_refused(
    bench: Bench, compress: Compress
) -> None:
    # Cut where one entry ends and the next would begin: the tar looks whole.
    plain, part = tar(file("x"), file("y")), tar(file("x"), end=False)
    task = replace(bench.task(part, compress(part)), identity=DeclaredDiffID(DiffID.of(plain)))
    bench.refuses(task, IntegrityError, "wrong digest: layer")


@each_form
@pytest.mark.parametrize("room", [0, 512, 1024, 1536, 100_000, CHUNK, CHUNK + 1536])
def test_a_stream_over_its_limit_is_never_taken_for_a_whole_one(
    bench: Bench, compress: Compress, room: int
) -> None:
    # The stream passes the limit while the reader looks for its end.  If that looked like
    # its end, neither digest would be checked: here both are wrong.
    plain = tar(file("x", b"evil")) + bytes(2 * CHUNK)
    task = bench.task(plain, compress(plain), unpacked_bytes=1536 + room)
    task = replace(task, identity=DeclaredDiffID(DiffID.of(b"another")))
    bench.refuses(task, LayerError, "too large: layer")


def test_a_bomb_is_refused_before_it_has_grown(bench: Bench) -> None:
    plain = tar(file("x", bytes(200 << 20)))
    task = bench.task(plain, gzip.compress(plain, compresslevel=1), ratio=10)
    bench.refuses(task, LayerError, "more than 67108864 bytes uncompressed")


@each_form
def test_a_kept_blob_is_the_blob_and_is_kept_only_when_it_is_right(
    bench: Bench, compress: Compress
) -> None:
    plain = tar(file("x", BIG))
    task = bench.task(plain, compress(plain))
    task = replace(task, options=replace(task.options, keep_blobs=True))
    bench.refuses(
        replace(task, identity=DeclaredDiffID(DiffID.of(b"another"))),
        IntegrityError,
        "wrong digest",
    )
    unpack_layer(task, IGNORED.append)
    path = bench.store.root / "blobs/sha256" / task.blob.digest.hex
    assert path.read_bytes() == compress(plain)
