"""Compressed archives are decompressed into a temporary file, which is removed."""

from __future__ import annotations

import gzip
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from stacker.errors import IntegrityError, LayerError, NotFoundError, StackerError
from stacker.events import Emit
from stacker.jobs.pool import run_tasks
from stacker.source.seekable import seekable
from stacker.tar.limits import ARCHIVE_GRACE

CONTENT = b"plain bytes of an archive" * 1000


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Return an empty directory."""
    path = tmp_path / "spool"
    path.mkdir()
    return path


def test_uncompressed_archive_is_used_in_place(tmp_path: Path, spool: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(CONTENT)
    with seekable(str(path), "a", spool=spool) as plain:
        assert plain == str(path)
        assert not list(spool.iterdir())
    assert path.exists()


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_decompressed_archive_exists_until_the_context_ends(
    tmp_path: Path, spool: Path, compress: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "misnamed.tar"
    path.write_bytes(compress(CONTENT))
    with seekable(str(path), "a", spool=spool) as plain:
        assert Path(plain).read_bytes() == CONTENT
        assert Path(plain).stat().st_dev == spool.stat().st_dev
        assert Path(plain).stat().st_mode & 0o077 == 0
    assert not Path(plain).exists()


def test_decompressed_archive_has_no_name_that_a_killed_command_leaves(
    tmp_path: Path, spool: Path
) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(CONTENT))
    with seekable(str(path), "a", spool=spool) as plain:
        assert Path(plain).stat().st_nlink == 0
        assert not list(spool.iterdir())


def content_of(path: str, emit: Emit) -> bytes:
    del emit
    return Path(path).read_bytes()


def test_a_worker_without_a_fork_reads_the_decompressed_archive(
    tmp_path: Path, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stacker.linux.process.has_threads", lambda: True)
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(CONTENT))
    with seekable(str(path), "a", spool=spool) as plain:
        assert list(run_tasks([plain], content_of, jobs=1, emit=print)) == [CONTENT]


def test_an_error_inside_leaves_nothing_behind(tmp_path: Path, spool: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(CONTENT))
    with pytest.raises(KeyError), seekable(str(path), "a", spool=spool):
        raise KeyError
    assert not list(spool.iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-20],
        lambda data: data[:20] + b"\xff" * 10 + data[30:],
        lambda data: data + b"rubbish",
    ],
)
def test_a_corrupt_archive_is_refused_and_leaves_nothing_behind(
    tmp_path: Path, spool: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(damage(gzip.compress(os.urandom(5000))))
    with (
        pytest.raises(IntegrityError, match="archive:a"),
        seekable(str(path), "archive:a", spool=spool),
    ):
        pytest.fail("it was accepted")
    assert not list(spool.iterdir())


def test_archive_over_the_ratio_is_refused_with_a_hint(tmp_path: Path, spool: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(bytes(ARCHIVE_GRACE + 1)))
    with seekable(str(path), "a", spool=spool, ratio=2000):
        pass
    with (
        pytest.raises(
            LayerError, match=r"over a limit: archive:a: .* at most 100 decompressed"
        ) as caught,
        seekable(str(path), "archive:a", spool=spool),
    ):
        pytest.fail("it was accepted")
    assert "--max-archive-ratio" in (caught.value.hint or "")
    assert not list(spool.iterdir())


def test_small_archive_may_exceed_the_ratio(tmp_path: Path, spool: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(bytes(ARCHIVE_GRACE)))
    with seekable(str(path), "a", spool=spool) as plain:
        assert Path(plain).stat().st_size == ARCHIVE_GRACE


def test_no_byte_beyond_the_ratio_is_written(
    tmp_path: Path, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, kept_open = tmp_path / "a.tar.gz", list[int]()
    path.write_bytes(gzip.compress(bytes(4 * ARCHIVE_GRACE)))
    make = tempfile.TemporaryFile

    def kept(**options: object) -> object:
        file = make(**options)  # type: ignore[call-overload]
        kept_open.append(os.dup(file.fileno()))
        return file

    monkeypatch.setattr(tempfile, "TemporaryFile", kept)
    with pytest.raises(LayerError), seekable(str(path), "a", spool=spool):
        pytest.fail("it was accepted")
    (descriptor,) = kept_open
    size = os.fstat(descriptor).st_size
    os.close(descriptor)
    assert 0 < size <= ARCHIVE_GRACE


def test_pipe_over_the_ratio_is_refused(tmp_path: Path, spool: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    data = gzip.compress(bytes(2 * ARCHIVE_GRACE))
    writer = threading.Thread(target=path.write_bytes, args=(data,))
    writer.start()
    try:
        with pytest.raises(LayerError), seekable(str(path), "a", spool=spool):
            pytest.fail("it was accepted")
    finally:
        writer.join()


def test_a_pipe_is_spooled(tmp_path: Path, spool: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(CONTENT,))
    writer.start()
    try:
        with seekable(str(path), "a", spool=spool) as plain:
            assert Path(plain).read_bytes() == CONTENT
    finally:
        writer.join()
    assert not list(spool.iterdir())


def test_a_missing_archive_is_not_found(tmp_path: Path, spool: Path) -> None:
    with (
        pytest.raises(NotFoundError, match="no such file: archive:a"),
        seekable(str(tmp_path / "none"), "archive:a", spool=spool),
    ):
        pytest.fail("it was found")


def test_directory_is_not_an_archive(tmp_path: Path, spool: Path) -> None:
    with (
        pytest.raises(StackerError, match="cannot open: archive:a: "),
        seekable(str(tmp_path), "archive:a", spool=spool),
    ):
        pytest.fail("it was opened")
