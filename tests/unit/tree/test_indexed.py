"""The tree of a merged index: equal to the layers, and safe if the index is damaged."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stacker.erofs.read import Image
from stacker.errors import IntegrityError
from stacker.fuse.prefetch import Prefetcher
from stacker.layer.paths import MergedIndex, Stack
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.tree.contents import pieces
from stacker.tree.creation import Caller
from stacker.tree.indexed import IndexedTree, open_index
from stacker.tree.protocol import ROOT, Node
from stacker.tree.writable import WritableTree
from tests.support import tars
from tests.support.indexes import indexed_tree, merged_snapshot, merged_stack
from tests.support.merged import tree_snapshot

SPARSE = [(4096, b"data" * 1024), (1 << 20, b"end" * 1000)]
SPARSE_SIZE = (1 << 20) + 5000
LOWER = tars.tar(
    tars.dir("./", mode=0o711, mtime=5),
    tars.dir("many/"),
    *(tars.file(f"many/{number:03}", b"%d" % number * (number % 7)) for number in range(300)),
    tars.file("big", b"0123456789abcdef" * 65_536, xattrs={"user.kind": b"\0x"}),
    tars.hardlink("more", "big"),
    tars.dir("deep/"),
    tars.dir("deep/inner/"),
    tars.hardlink("deep/inner/link", "big"),
    tars.symlink("symlink", "x" * 600),
    tars.char("device", 300, 70_000, mode=0o640),
    tars.fifo("fifo"),
    tars.file("escaped", b"e", xattrs={"user.overlay.opaque": b"y"}),
    tars.file("gone", b"g"),
    tars.sparse_10("sparse", SPARSE_SIZE, SPARSE),
    tars.sparse_10("hole", 10_000, []),
)
UPPER = tars.tar(tars.whiteout("gone"), tars.file("many/new", b"n", uid=7, gid=8, mtime=-3))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    return merged_stack([LOWER, UPPER], tmp_path_factory.mktemp("index"), WhiteoutFormat.USER)


@pytest.fixture
def tree(stack: Stack) -> Iterator[IndexedTree]:
    with closing(indexed_tree(stack)) as tree:
        yield tree


def at(tree: IndexedTree | WritableTree, path: bytes) -> Node:
    node = ROOT
    for name in path.split(b"/"):
        found = tree.lookup(node, name)
        assert found is not None, path
        node = found
    return node


def test_tree_equals_the_layers(stack: Stack, tree: IndexedTree) -> None:
    assert tree_snapshot(tree) == merged_snapshot(stack)


def test_listing_continues_at_each_offset(tree: IndexedTree) -> None:
    many = at(tree, b"many")
    listed = list(tree.entries(many))
    assert [name for _, name, _ in listed] == sorted({name for _, name, _ in listed})
    assert len(listed) == 301
    for number, (offset, _, _) in enumerate(listed):
        assert list(tree.entries(many, offset)) == listed[number + 1 :]


def test_dots_and_missing_names_are_not_found(tree: IndexedTree) -> None:
    for name in (b".", b"..", b"gone", b"", b"zzz", b"\xff"):
        assert tree.lookup(ROOT, name) is None


def test_errors_have_the_errno_of_the_system_call(tree: IndexedTree) -> None:
    for call, number in (
        (lambda: tree.lookup(at(tree, b"big"), b"x"), errno.ENOTDIR),
        (lambda: list(tree.entries(at(tree, b"big"))), errno.ENOTDIR),
        (lambda: tree.readlink(at(tree, b"big")), errno.EINVAL),
        (lambda: tree.read(at(tree, b"many"), 0, 1), errno.EINVAL),
        (lambda: tree.xattr(at(tree, b"big"), b"user.no"), errno.ENODATA),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == number


def test_names_of_an_inode_are_found_in_every_directory(tree: IndexedTree) -> None:
    inner = at(tree, b"deep/inner")
    assert sorted(tree.names(at(tree, b"big"))) == [
        (ROOT, b"big"),
        (ROOT, b"more"),
        (inner, b"link"),
    ]
    assert tree.names(inner) == [(at(tree, b"deep"), b"inner")]
    assert tree.parent(inner) == at(tree, b"deep")
    assert tree.parent(ROOT) == ROOT


def test_numbers_are_the_same_each_time(stack: Stack, tree: IndexedTree) -> None:
    with closing(indexed_tree(stack)) as again:
        for path in (b"big", b"many/007", b"deep/inner/link"):
            assert at(tree, path) == at(again, path)


def test_xattrs_have_the_names_of_the_image(tree: IndexedTree) -> None:
    assert tree.xattrs(at(tree, b"escaped")) == {b"user.overlay.opaque": b"y"}


def test_owners_are_mapped(tree: IndexedTree) -> None:
    new = at(tree, b"many/new")
    mapped = tree.with_owners(lambda uid: uid + 100, lambda _: 5)
    assert tree.status(new)[2:4] == (7, 8)
    assert mapped.status(new)[2:4] == (107, 5)
    assert mapped.status(new)[4:] == tree.status(new)[4:]


def test_range_is_read_and_never_past_the_end(tree: IndexedTree) -> None:
    big, whole = at(tree, b"big"), b"0123456789abcdef" * 65_536
    for offset in (0, 1, 511, 512, len(whole) - 1, len(whole), 1 << 40):
        assert tree.read(big, offset, 5000) == whole[offset : offset + 5000]
    piece = tree.file(big).piece(100, 1 << 30)
    assert piece.length == len(whole) - 100
    assert os.pread(piece.descriptor, 16, piece.offset) == whole[100:116]


def test_holes_are_found_read_and_copied(tree: IndexedTree, tmp_path: Path) -> None:
    sparse, hole = at(tree, b"sparse"), at(tree, b"hole")
    wanted = bytearray(SPARSE_SIZE)
    for offset, data in SPARSE:
        wanted[offset : offset + len(data)] = data
    assert tree.read(sparse, 0, SPARSE_SIZE + 1) == wanted
    assert tree.read(sparse, 4090, 5000) == wanted[4090:9090]
    file = tree.file(sparse)
    assert file.seek(0, os.SEEK_HOLE) == 0
    assert file.seek(0, os.SEEK_DATA) == 4096
    assert file.seek(4100, os.SEEK_HOLE) == 8192
    assert file.seek(8192, os.SEEK_DATA) == 1 << 20
    assert file.seek((1 << 20) + 1, os.SEEK_HOLE) > 1 << 20
    for node, offset, whence in (
        (sparse, SPARSE_SIZE, os.SEEK_HOLE),
        (sparse, -1, os.SEEK_DATA),
        (hole, 0, os.SEEK_DATA),
    ):
        with pytest.raises(OSError) as caught:
            tree.file(node).seek(offset, whence)
        assert caught.value.errno == errno.ENXIO
    assert tree.file(hole).seek(0, os.SEEK_HOLE) == 0
    assert tree.read(hole, 0, 20_000) == bytes(10_000)
    for length in (SPARSE_SIZE, 5000, 4096, 1):
        with (tmp_path / "copy").open("w+b") as copy:
            file.copy_start(copy.fileno(), length)
            assert copy.read() == wanted[:length]
            assert os.fstat(copy.fileno()).st_blocks * 512 < 64 << 10


def test_files_of_a_directory_follow_in_the_order_of_a_listing(tree: IndexedTree) -> None:
    listed = [node for _, _, node in tree.entries(at(tree, b"many"))]
    found, node = [listed[0]], tree.after(listed[0])
    while node is not None and len(found) < len(listed):
        found.append(node)
        node = tree.after(node)
    assert found == listed


def test_prefetcher_groups_files_of_an_index(tree: IndexedTree) -> None:
    ahead, stored = Prefetcher(tree), list[int]()

    class Sender:
        def store(self, nodeid: int, data: bytes) -> None:
            assert tree.read(nodeid - 1, 0, 1 << 20) == data
            stored.append(nodeid - 1)

    listed = [node for _, _, node in tree.entries(at(tree, b"many"))]
    for node in listed[100:104]:
        ahead.after_read(node, Sender())  # type: ignore[arg-type]
    assert len(stored) > 10
    assert set(stored) <= set(listed[104:])


def test_writes_on_top_copy_up_from_the_tar(tree: IndexedTree, tmp_path: Path) -> None:
    upper, work = tmp_path / "upper", tmp_path / "work"
    upper.mkdir()
    work.mkdir()
    before = tree_snapshot(tree)
    with closing(WritableTree(tree, WhiteoutFormat.USER, upper, work, durable=False)) as writable:
        shown = tree_snapshot(writable)
        assert shown.keys() == before.keys()
        assert all(shown[path] == before[path] for path in shown if path)  # the root is upper's
        big = at(writable, b"big")
        assert writable.files.write(big, b"NEW", 3) == 3
        assert writable.read(at(writable, b"deep/inner/link"), 0, 8) == b"012NEW67"
        assert at(writable, b"more") == big
        assert writable.status(big).nlink == 3
        made = writable.create(at(writable, b"many"), b"made", 0o600, Caller(0, 0))
        assert made >= tree.limit
        writable.unlink(at(writable, b"many"), b"000")
        assert writable.lookup(at(writable, b"many"), b"000") is None
    assert (upper / "deep/inner/link").stat().st_size == 1 << 20
    assert tree_snapshot(tree) == before


def test_listing_resumes_after_its_directory_is_copied_up(
    tree: IndexedTree, tmp_path: Path
) -> None:
    upper, work = tmp_path / "upper", tmp_path / "work"
    upper.mkdir()
    work.mkdir()
    with closing(WritableTree(tree, WhiteoutFormat.USER, upper, work, durable=False)) as writable:
        many = at(writable, b"many")
        listed = [*writable.entries(many)]
        offset = listed[149][0]
        writable.create(many, b"made", 0o600, Caller(0, 0))
        rest = [name for _, name, _ in writable.entries(many, offset)]
    assert rest == [name for _, name, _ in listed[150:]] + [b"made"]


def test_truncated_tar_is_an_error_and_no_zeroes(stack: Stack, tmp_path: Path) -> None:
    assert stack.merged is not None
    short = tmp_path / "layer.tar"
    short.write_bytes(stack.merged.tars[0].read_bytes()[:400_000])
    merged = MergedIndex(stack.merged.path, (short, *stack.merged.tars[1:]))
    with closing(open_index(merged, WhiteoutFormat.USER)) as tree:
        with pytest.raises(OSError) as caught:
            tree.read(at(tree, b"big"), 0, 1 << 20)
        assert caught.value.errno == errno.EIO


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"\0" * 5000])
def test_file_that_is_not_an_index_is_refused(stack: Stack, tmp_path: Path, data: bytes) -> None:
    assert stack.merged is not None
    (tmp_path / "index").write_bytes(data)
    with pytest.raises(IntegrityError, match="damaged index"):
        open_index(MergedIndex(tmp_path / "index", stack.merged.tars), WhiteoutFormat.USER)


def test_index_with_more_tars_than_the_record_names_is_refused(stack: Stack) -> None:
    assert stack.merged is not None
    with pytest.raises(IntegrityError, match="tars"):
        open_index(MergedIndex(stack.merged.path, stack.merged.tars[:1]), WhiteoutFormat.USER)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, tuple[Path, ...]]:
    layer = tars.tar(
        tars.dir("a/"),
        tars.dir("a/b/"),
        tars.dir("a/b/c/"),
        *(tars.file(f"a/b/{'n' * number}", b"x" * number) for number in range(1, 60)),
        tars.file("a/file", b"y" * 3000, xattrs={"user.kind": b"z" * 40}),
        tars.hardlink("a/b/c/link", "a/file"),
        tars.symlink("s", "t" * 700),
        tars.char("null", 1, 3),
    )
    stack = merged_stack([layer], tmp_path_factory.mktemp("small"), WhiteoutFormat.USER)
    assert stack.merged is not None
    return stack.merged.path.read_bytes(), stack.merged.tars


@settings(
    max_examples=int(os.environ.get("STACKER_EXAMPLES", "300")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.data())
def test_damaged_index_raises_and_every_walk_ends(
    small: tuple[bytes, tuple[Path, ...]], data: st.DataObject
) -> None:
    whole, tar_paths = small
    damaged = bytearray(whole)
    change = st.tuples(st.integers(1024, len(damaged) - 1), st.integers(0, 255))
    for place, byte in data.draw(st.lists(change, min_size=1, max_size=8)):
        damaged[place] = byte
    files = [os.open(path, os.O_RDONLY) for path in tar_paths]
    with suppress(IntegrityError):
        tree = IndexedTree(
            Image(memoryview(bytes(damaged)), "damaged"), [files[0], *files], WhiteoutFormat.USER
        )
        _visit_all(tree)
    for file in files:
        os.close(file)


def _visit_all(tree: IndexedTree) -> None:
    todo, seen = [ROOT], {ROOT}
    while todo:
        node = todo.pop()
        for call in (tree.status, tree.xattrs, tree.names, tree.parent, tree.readlink, tree.after):
            with suppress(IntegrityError, OSError):
                if node != ROOT or call != tree.names:
                    call(node)
        with suppress(IntegrityError, OSError):
            tree.read(node, 0, 100_000)
            for piece in zip(range(100), pieces(tree.file(node), 0, 1 << 62), strict=False):
                assert piece[1].length > 0
        with suppress(IntegrityError, OSError):
            for _, name, child in tree.entries(node):
                tree.lookup(node, name)
                if child not in seen:
                    seen.add(child)
                    todo.append(child)
    assert all(0 <= node < tree.limit for node in seen)
