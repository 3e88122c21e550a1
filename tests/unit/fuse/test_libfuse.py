"""The handlers for pyfuse3, called as pyfuse3 calls them, without a kernel."""

from __future__ import annotations

import errno
import os
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stacker.fuse.protocol import FOREVER
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.tree.merged import MergedTree, merge

if TYPE_CHECKING:
    from stacker.fuse.libfuse import Operations

pyfuse3 = pytest.importorskip("pyfuse3", reason="pyfuse3 is not installed: the extra `fuse`")
ROOT = 1


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> MergedTree:
    workspace = tmp_path_factory.mktemp("tree")
    (workspace / "dir").mkdir()
    (workspace / "file").write_bytes(b"contents")
    (workspace / "link").symlink_to("file")
    os.setxattr(workspace / "file", "user.kind", b"plain")
    return merge([workspace], WhiteoutFormat.USER)


@pytest.fixture
def operations(tree: MergedTree) -> Iterator[Operations]:
    from stacker.fuse.libfuse import Operations

    operations = Operations(tree)
    yield operations
    operations.close()


def done(handler: object) -> Any:
    """Run a handler, which must not wait."""
    assert isinstance(handler, Coroutine)
    try:
        handler.send(None)
    except StopIteration as result:
        return result.value
    pytest.fail("a handler waits")


def errno_of(handler: object) -> int:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        done(handler)
    return int(caught.value.errno)


def found(operations: Operations, name: bytes) -> int:
    number = done(operations.lookup(ROOT, name, None)).st_ino
    assert number
    return int(number)


def test_names_and_attributes_are_cached_forever(operations: Operations) -> None:
    entry = done(operations.lookup(ROOT, b"file", None))
    assert (entry.entry_timeout, entry.attr_timeout) == (FOREVER, FOREVER)
    assert entry is done(operations.getattr(entry.st_ino, None))


def test_missing_name_is_cached_as_missing(operations: Operations) -> None:
    entry = done(operations.lookup(ROOT, b"nothing", None))
    assert (entry.st_ino, entry.entry_timeout) == (0, FOREVER)


def test_handle_is_the_inode_for_every_worker(operations: Operations, tree: MergedTree) -> None:
    number = found(operations, b"file")
    info = done(operations.open(number, os.O_RDONLY, None))
    assert (info.fh, info.keep_cache) == (number, True)
    another = type(operations)(tree)
    assert done(another.read(info.fh, 3, 100)) == b"tents"
    another.close()
    assert done(operations.release(info.fh)) is None


def test_errors_become_errnos(operations: Operations) -> None:
    file, link = found(operations, b"file"), found(operations, b"link")
    assert errno_of(operations.open(file, os.O_RDWR, None)) == errno.EROFS
    assert errno_of(operations.opendir(file, None)) == errno.ENOTDIR
    assert errno_of(operations.readlink(file, None)) == errno.EINVAL
    assert errno_of(operations.read(link, 0, 10)) == errno.EINVAL
    assert errno_of(operations.read(file, -1, 10)) == errno.EINVAL
    assert errno_of(operations.getxattr(file, b"user.no", None)) == errno.ENODATA


@pytest.mark.parametrize("number", [-1, 0, 1000, (1 << 64) - 1])
def test_unknown_node_is_stale(operations: Operations, number: int) -> None:
    for handler in (
        operations.lookup(number, b"x", None),
        operations.getattr(number, None),
        operations.readlink(number, None),
        operations.open(number, os.O_RDONLY, None),
        operations.opendir(number, None),
        operations.read(number, 0, 10),
        operations.readdir(number, 0, None),
        operations.getxattr(number, b"x", None),
        operations.listxattr(number, None),
    ):
        assert errno_of(handler) == errno.ESTALE


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 12), st.binary(max_size=20), st.integers(-2, 1 << 64), st.integers(0, 1 << 20)
)
def test_every_request_returns_or_raises_fuse_error(
    tree: MergedTree, number: int, name: bytes, offset: int, size: int
) -> None:
    from stacker.fuse.libfuse import Operations

    operations = Operations(tree)
    for handler in (
        operations.lookup(number, name, None),
        operations.read(number, offset, size),
        operations.getxattr(number, name, None),
    ):
        with suppress(pyfuse3.FUSEError):
            done(handler)
    operations.close()
