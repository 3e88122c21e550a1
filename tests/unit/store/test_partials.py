"""Partial blobs: resuming, locking and sweeping."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stacker.errors import IntegrityError
from stacker.image.digest import Digest
from stacker.store.partials import Partial, PartialStore

BLOB = bytes(range(200))
DIGEST = Digest.of(BLOB)


@pytest.fixture
def partials(tmp_path: Path) -> PartialStore:
    return PartialStore(tmp_path / "partial")


def broken(data: bytes, error: Exception) -> Iterator[bytes]:
    yield data
    raise error


def begin(partials: PartialStore, data: bytes) -> None:
    """Write the first bytes of the blob, as an interrupted pull does."""
    with partials.locked(DIGEST) as partial:
        assert partial is not None
        with pytest.raises(ConnectionError):
            list(partial.tee(broken(data, ConnectionError()), is_needed=False))


def read(partial: Partial) -> bytes:
    return b"".join(iter(lambda: partial.read(7), b""))


def test_partial_blob_is_found_by_the_next_pull(partials: PartialStore) -> None:
    begin(partials, BLOB[:50])
    with partials.locked(DIGEST) as partial:
        assert partial is not None
        assert (partial.size, read(partial)) == (50, BLOB[:50])
        assert partial.is_suspect


@pytest.mark.parametrize("size", [1, 49, 50, 51, 99, 200])
def test_only_missing_bytes_are_written(partials: PartialStore, size: int) -> None:
    begin(partials, BLOB[:50])
    path = next(partials.root.iterdir())
    path.write_bytes(b"?" * 50)  # a marker for bytes that must not be rewritten
    chunks = [BLOB[at : at + size] for at in range(0, len(BLOB), size)]
    with partials.locked(DIGEST) as partial:
        assert partial is not None
        assert b"".join(partial.tee(iter(chunks), is_needed=False)) == BLOB
        assert partial.is_complete
        assert not partial.is_suspect
    assert path.read_bytes() == b"?" * 50 + BLOB[50:]


def test_blob_with_a_wrong_digest_is_never_complete(partials: PartialStore) -> None:
    with partials.locked(DIGEST) as partial:
        assert partial is not None
        with pytest.raises(IntegrityError):
            list(partial.tee(broken(BLOB, IntegrityError("x")), is_needed=False))
        assert not partial.is_complete
        assert not partial.is_suspect  # no bytes of an earlier pull


def test_partial_blob_has_one_holder(partials: PartialStore) -> None:
    with partials.locked(DIGEST) as mine, partials.locked(DIGEST) as theirs:
        assert mine is not None
        assert theirs is None
    with partials.locked(DIGEST) as mine:
        assert mine is not None


def test_empty_or_removed_partial_blob_leaves_no_file(partials: PartialStore) -> None:
    with partials.locked(DIGEST):
        pass
    assert not list(partials.root.iterdir())
    for end in (Partial.clear, Partial.remove):
        begin(partials, BLOB[:50])
        with partials.locked(DIGEST) as partial:
            assert partial is not None
            end(partial)
            end(partial)
        assert not list(partials.root.iterdir())


def test_second_removal_keeps_the_file_of_another_process(partials: PartialStore) -> None:
    with partials.locked(DIGEST) as partial:
        assert partial is not None
        partial.remove()
        partial.path.write_bytes(b"theirs")
    assert partial.path.read_bytes() == b"theirs"


def test_cleared_partial_blob_starts_at_zero(partials: PartialStore) -> None:
    begin(partials, b"?" * 50)
    with partials.locked(DIGEST) as partial:
        assert partial is not None
        partial.clear()
        assert read(partial) == b""
        list(partial.tee(iter([BLOB]), is_needed=False))
        assert partial.path.read_bytes() == BLOB


@pytest.mark.parametrize("is_needed", [True, False])
def test_full_disk_truncates_the_partial_blob(partials: PartialStore, is_needed: bool) -> None:
    def fill() -> int:
        with partials.locked(DIGEST) as partial:
            assert partial is not None
            try:
                assert list(partial.tee(iter([BLOB[:90], BLOB[90:]]), is_needed=is_needed))
            except OSError as error:
                return error.errno or -1
            return 0

    def limited() -> int:
        # A write beyond RLIMIT_FSIZE fails as on a full disk, with another errno.
        partials_module = __import__("stacker.store.partials", fromlist=["NO_SPACE"])
        partials_module.__dict__["NO_SPACE"] |= {errno.EFBIG}
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        return fill()

    assert in_a_child(limited) == (errno.EFBIG if is_needed else 0)
    assert [path.stat().st_size for path in partials.root.iterdir()] == ([100] if is_needed else [])


def in_a_child(work: Callable[[], int]) -> int:
    if not (pid := os.fork()):
        code = 255
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_abandoned_partial_blobs_are_swept(partials: PartialStore) -> None:
    assert partials.sweep() == 0
    begin(partials, BLOB[:50])
    assert partials.sweep() == 0
    (path,) = partials.root.iterdir()
    os.utime(path, (0, 0))
    with partials.locked(DIGEST):
        assert partials.sweep() == 0
    assert partials.sweep() == 1
    assert not list(partials.root.iterdir())
