"""Prefetching small files, and splicing ranges of large ones."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from stacker.fuse import prefetch
from stacker.fuse import protocol as fuse
from stacker.fuse.channel import MIN_SPLICE, FileSender
from stacker.fuse.prefetch import Prefetcher
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.tree.merged import MergedTree, merge
from stacker.tree.protocol import ROOT

FILES = 100


@pytest.fixture
def tree(tmp_path: Path) -> MergedTree:
    """Return a tree of small files, a large one, an empty one and a symlink."""
    top = tmp_path / "layer" / "many"
    top.mkdir(parents=True)
    for number in range(FILES):
        (top / f"{number:03}").write_bytes(b"contents of %d" % number)
    (top / "020").write_bytes(bytes(prefetch.MAX_SIZE + 1))
    (top / "021").write_bytes(b"")
    (top / "022").unlink()
    (top / "022").symlink_to("023")
    return merge([tmp_path / "layer"], WhiteoutFormat.USER)


class Pipe:
    """A sender that writes to a pipe instead of /dev/fuse."""

    def __init__(self) -> None:
        self.reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 20)
        self.sender = FileSender(writer)

    def sent(self, size: int = 1 << 20) -> bytes:
        os.set_blocking(self.reader, False)
        try:
            return os.read(self.reader, size)
        except BlockingIOError:
            return b""

    def stored(self) -> list[tuple[int, bytes]]:
        """Return the node and the contents of each store."""
        found, data = [], self.sent()
        while data:
            size, code, unique = fuse.OUT_HEADER.unpack_from(data)
            assert (code, unique) == (fuse.NOTIFY_STORE, 0)
            node, offset, length, _ = fuse.STORE_OUT.unpack_from(data, fuse.OUT_HEADER.size)
            start = fuse.OUT_HEADER.size + fuse.STORE_OUT.size
            assert (offset, start + length) == (0, size)
            found.append((node - fuse.ROOT_ID, data[start:size]))
            data = data[size:]
        return found


@pytest.fixture
def pipe() -> Pipe:
    return Pipe()


def node(tree: MergedTree, number: int) -> int:
    many = tree.lookup(ROOT, b"many")
    assert many is not None
    found = tree.lookup(many, b"%03d" % number)
    assert found is not None
    return found


def test_files_after_sequential_reads_are_stored(tree: MergedTree, pipe: Pipe) -> None:
    ahead = Prefetcher(tree)
    for number in range(2):
        ahead.after_read(node(tree, number), pipe.sender)
    assert pipe.stored() == [], "two may be chance"
    ahead.after_read(node(tree, 2), pipe.sender)
    stored = pipe.stored()
    assert len(stored) > 10
    first = stored[0][0]
    assert node(tree, 2) < first <= node(tree, 6)
    contents = dict(stored)
    for number in range(first - node(tree, 0), 20):
        assert contents[node(tree, number)] == b"contents of %d" % number


def test_only_small_files_with_contents_are_stored(tree: MergedTree, pipe: Pipe) -> None:
    ahead = Prefetcher(tree)
    for number in range(10, 14):
        ahead.after_read(node(tree, number), pipe.sender)
    stored = dict(pipe.stored())
    assert node(tree, 19) in stored
    assert node(tree, 23) in stored
    assert not {node(tree, number) for number in (20, 21, 22)} & stored.keys()


def test_no_file_is_stored_twice_or_beyond_the_directory(tree: MergedTree, pipe: Pipe) -> None:
    ahead, seen = Prefetcher(tree), []
    for number in range(FILES):
        ahead.after_read(node(tree, number), pipe.sender)
        seen += [stored for stored, _ in pipe.stored()]
    assert len(seen) == len(set(seen))
    assert max(seen) == node(tree, FILES - 1)
    assert len(seen) > FILES // 2


@pytest.mark.parametrize("order", [[50, 3, 70, 20, 90, 1], [90, 80, 70, 60, 50], [1, 40, 41, 80]])
def test_random_reads_store_nothing(tree: MergedTree, pipe: Pipe, order: list[int]) -> None:
    ahead = Prefetcher(tree)
    for number in order:
        ahead.after_read(node(tree, number), pipe.sender)
    assert pipe.stored() == []


def test_second_worker_does_not_wait_for_a_store(tree: MergedTree, pipe: Pipe) -> None:
    ahead = Prefetcher(tree)
    locked, done = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        fcntl.lockf(ahead._lock, fcntl.LOCK_EX)
        os.write(locked[1], b"x")
        os.close(done[1])
        os.read(done[0], 1)
        os._exit(0)
    os.read(locked[0], 1)
    for number in range(5):
        ahead.after_read(node(tree, number), pipe.sender)
    assert pipe.stored() == []
    os.close(done[1])
    os.waitpid(child, 0)
    ahead.after_read(node(tree, 5), pipe.sender)
    assert pipe.stored() != []


def test_file_with_a_changed_size_is_not_stored(
    tree: MergedTree, pipe: Pipe, tmp_path: Path
) -> None:
    (tmp_path / "layer/many/010").write_bytes(b"less")
    (tmp_path / "layer/many/011").unlink()
    ahead = Prefetcher(tree)
    for number in range(4):
        ahead.after_read(node(tree, number), pipe.sender)
    stored = dict(pipe.stored())
    assert node(tree, 12) in stored
    assert not {node(tree, 10), node(tree, 11)} & stored.keys()


@pytest.mark.parametrize("length", [MIN_SPLICE, 3 * MIN_SPLICE + 1])
def test_spliced_range_is_complete(pipe: Pipe, tmp_path: Path, length: int) -> None:
    data = os.urandom(length + 200)
    (tmp_path / "file").write_bytes(data)
    with (tmp_path / "file").open("rb") as file:
        assert pipe.sender.reply(7, file.fileno(), 100, length)
    head = fuse.OUT_HEADER.pack(fuse.OUT_HEADER.size + length, 0, 7)
    assert pipe.sent() == head + data[100 : 100 + length]


def test_short_range_is_left_to_the_caller(pipe: Pipe, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(MIN_SPLICE))
    with (tmp_path / "file").open("rb") as file:
        assert not pipe.sender.reply(7, file.fileno(), 0, MIN_SPLICE - 1)
    assert pipe.sent() == b""


def test_shrunk_file_sends_nothing_and_the_next_reply_is_intact(pipe: Pipe, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(MIN_SPLICE + 10))
    with (tmp_path / "file").open("rb") as file:
        assert not pipe.sender.reply(7, file.fileno(), 0, MIN_SPLICE + 11)
        assert pipe.sent() == b""
        assert pipe.sender.reply(8, file.fileno(), 10, MIN_SPLICE)
    assert pipe.sent()[:16] == fuse.OUT_HEADER.pack(fuse.OUT_HEADER.size + MIN_SPLICE, 0, 8)
