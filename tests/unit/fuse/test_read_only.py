"""The read-only adapter, request by request, without a kernel."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stacker.fuse import protocol as fuse
from stacker.fuse.passthrough import Passthrough
from stacker.fuse.read_only import ReadOnlyAdapter
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.tree.merged import MergedTree, merge

ROOT = fuse.ROOT_ID
NAMES = sorted([b"file", b"link", b"dir", *(b"n%d" % number for number in range(50))])


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> MergedTree:
    workspace = tmp_path_factory.mktemp("tree")
    (workspace / "dir").mkdir()
    (workspace / "file").write_bytes(b"contents" * 1000)
    (workspace / "link").symlink_to("file")
    os.setxattr(workspace / "file", "user.kind", b"plain")
    for number in range(50):
        (workspace / f"n{number}").touch()
    return merge([workspace], WhiteoutFormat.USER)


@pytest.fixture
def adapter(tree: MergedTree) -> Iterator[ReadOnlyAdapter]:
    adapter = ReadOnlyAdapter(tree)
    yield adapter
    adapter.close()


def request(opcode: int, body: bytes = b"", node: int = ROOT) -> bytes:
    size = fuse.IN_HEADER.size + len(body)
    return fuse.IN_HEADER.pack(size, opcode, 7, node, 0, 0, 1, 0, 0) + body


def body_of(adapter: ReadOnlyAdapter, opcode: int, body: bytes = b"", node: int = ROOT) -> bytes:
    """Return the body of a reply, which must not be an error."""
    reply = adapter.answer(request(opcode, body, node))
    assert reply is not None
    size, error, unique = fuse.OUT_HEADER.unpack_from(reply)
    assert (size, error, unique) == (len(reply), 0, 7), os.strerror(-error)
    return bytes(reply[fuse.OUT_HEADER.size :])


def errno_of(adapter: ReadOnlyAdapter, opcode: int, body: bytes = b"", node: int = ROOT) -> int:
    """Return the errno of a reply, which must be an error."""
    reply = adapter.answer(request(opcode, body, node))
    assert reply is not None
    size, error, unique = fuse.OUT_HEADER.unpack(reply)
    assert (size, unique) == (fuse.OUT_HEADER.size, 7)
    return -int(error)


def found(adapter: ReadOnlyAdapter, name: bytes) -> int:
    node = int(fuse.ENTRY_HEAD.unpack_from(body_of(adapter, fuse.LOOKUP, name + b"\0"))[0])
    assert node
    return node


def init(major: int = 7, minor: int = 40, flags: int = 0xFFFFFFFF) -> bytes:
    return fuse.INIT_IN.pack(major, minor, 1 << 17, flags) + bytes(48)


def test_structures_have_the_sizes_of_the_header_file() -> None:
    sizes = {
        fuse.IN_HEADER: 40,
        fuse.OUT_HEADER: 16,
        fuse.INIT_OUT: 64,
        fuse.OPEN_IN: 8,
        fuse.OPEN_OUT: 16,
        fuse.BACKING_MAP: 16,
        fuse.ENTRY_HEAD: 40,
        fuse.ATTR: 88,
        fuse.ATTR_HEAD: 16,
        fuse.READ_IN: 40,
        fuse.XATTR: 8,
        fuse.LSEEK_IN: 24,
        fuse.STATFS_OUT: 80,
        fuse.DIRENT: 24,
    }
    assert {layout.format: layout.size for layout in sizes} == {
        layout.format: size for layout, size in sizes.items()
    }


def test_init_agrees_on_offered_flags_only(adapter: ReadOnlyAdapter) -> None:
    for flags in (0, fuse.INIT_DO_READDIRPLUS, 0xFFFFFFFF):
        major, minor, _, agreed, *_ = fuse.INIT_OUT.unpack(
            body_of(adapter, fuse.INIT, init(flags=flags))
        )
        assert (major, minor) == (7, 31)
        assert agreed == flags & fuse.WANTED


def test_linux_5_4_gets_its_own_version(adapter: ReadOnlyAdapter) -> None:
    offered = (1 << 26) - 1  # up to FUSE_EXPLICIT_INVAL_DATA; struct fuse_init_in ends after them
    reply = body_of(adapter, fuse.INIT, fuse.INIT_IN.pack(7, 31, 1 << 17, offered))
    major, minor, ahead, agreed, _, _, write, _, pages, *rest = fuse.INIT_OUT.unpack(reply)
    assert (major, minor, agreed) == (7, 31, fuse.WANTED)
    assert (ahead, pages) == (fuse.READ_AHEAD, fuse.LARGEST_READ // 4096)
    assert write >= 4096
    assert set(rest) == {0}


def test_kernel_with_a_later_major_version_gets_ours(adapter: ReadOnlyAdapter) -> None:
    assert body_of(adapter, fuse.INIT, init(major=8))[:4] == b"\7\0\0\0"


@pytest.mark.parametrize(("major", "minor"), [(6, 99), (7, 30)])
def test_kernel_before_5_4_is_refused(adapter: ReadOnlyAdapter, major: int, minor: int) -> None:
    assert errno_of(adapter, fuse.INIT, init(major, minor)) == errno.EPROTO


@pytest.mark.parametrize("offered", [False, True])
def test_passthrough_needs_the_option_and_the_kernels_flag(
    tree: MergedTree, *, offered: bool
) -> None:
    passthrough = Passthrough(tree, 2)
    body = fuse.INIT_IN.pack(7, 40, 1 << 17, 0xFFFFFFFF)
    more = fuse.INIT_IN_FLAGS2.pack(fuse.INIT2_PASSTHROUGH if offered else 0)
    reply = body_of(ReadOnlyAdapter(tree, passthrough), fuse.INIT, body + more + bytes(44))
    _, _, _, flags, *_, flags2, depth = fuse.INIT_OUT.unpack(reply)
    assert passthrough.agreed == offered
    assert bool(flags & fuse.INIT_EXT) == offered
    assert (flags2, depth) == ((fuse.INIT2_PASSTHROUGH, 2) if offered else (0, 0))
    later = ReadOnlyAdapter(tree, passthrough)
    if not offered:
        assert errno_of(later, fuse.OPEN, bytes(8)) == errno.ENOSYS
        return
    node = found(later, b"file")
    reply = body_of(later, fuse.OPEN, bytes(8), node)
    assert fuse.OPEN_OUT.unpack(reply) == (0, fuse.OPEN_KEEP_CACHE | fuse.OPEN_NO_FLUSH, 0)
    writing = fuse.OPEN_IN.pack(os.O_RDWR, 0)
    assert errno_of(later, fuse.OPEN, writing, node) == errno.EROFS
    later.close()


def test_missing_name_is_cached_as_missing(adapter: ReadOnlyAdapter) -> None:
    entry = body_of(adapter, fuse.LOOKUP, b"nothing\0")
    node, _, valid, *_ = fuse.ENTRY_HEAD.unpack_from(entry)
    assert (node, valid, len(entry)) == (0, fuse.FOREVER, 128)


def test_open_is_not_implemented(adapter: ReadOnlyAdapter) -> None:
    for opcode in (fuse.OPEN, fuse.OPENDIR):
        assert errno_of(adapter, opcode, bytes(8)) == errno.ENOSYS


@pytest.mark.parametrize("opcode", sorted(fuse.WRITING))
def test_writes_are_erofs(adapter: ReadOnlyAdapter, opcode: int) -> None:
    assert errno_of(adapter, opcode, bytes(64)) == errno.EROFS


@pytest.mark.parametrize("opcode", [34, 40, 50, 53, 4711])
def test_unknown_operation_is_enosys(adapter: ReadOnlyAdapter, opcode: int) -> None:
    assert errno_of(adapter, opcode, bytes(64)) == errno.ENOSYS


@pytest.mark.parametrize("opcode", [fuse.FORGET, fuse.BATCH_FORGET, fuse.INTERRUPT])
def test_forget_and_interrupt_get_no_reply(adapter: ReadOnlyAdapter, opcode: int) -> None:
    assert adapter.answer(request(opcode, bytes(16))) is None


def test_unknown_node_is_stale(adapter: ReadOnlyAdapter) -> None:
    for node in (0, 1000, (1 << 64) - 1):
        assert errno_of(adapter, fuse.GETATTR, bytes(16), node) == errno.ESTALE


def test_truncated_request_is_einval(adapter: ReadOnlyAdapter) -> None:
    assert errno_of(adapter, fuse.LOOKUP, b"no end") == errno.EINVAL
    assert errno_of(adapter, fuse.LOOKUP, b"\0") == errno.EINVAL
    assert errno_of(adapter, fuse.READ, bytes(10), found(adapter, b"file")) == errno.EINVAL
    assert errno_of(adapter, fuse.INIT, b"") == errno.EINVAL
    assert adapter.answer(b"short") is None


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 60), st.integers(0, 70), st.binary(max_size=80))
def test_no_request_is_eio(tree: MergedTree, opcode: int, node: int, body: bytes) -> None:
    adapter = ReadOnlyAdapter(tree)
    reply = adapter.answer(request(opcode, body, node))
    assert reply is None or fuse.OUT_HEADER.unpack_from(reply)[::2] == (len(reply), 7)
    adapter.close()


def read_in(offset: int, size: int) -> bytes:
    return fuse.READ_IN.pack(0, offset, size, 0, 0, 0, 0)


def test_file_is_read_in_pieces(adapter: ReadOnlyAdapter) -> None:
    node, whole = found(adapter, b"file"), b"contents" * 1000
    assert body_of(adapter, fuse.READ, read_in(0, 1 << 30), node) == whole
    assert body_of(adapter, fuse.READ, read_in(7990, 4096), node) == whole[7990:]
    assert body_of(adapter, fuse.READ, read_in(8000, 4096), node) == b""
    assert errno_of(adapter, fuse.READ, read_in(1 << 63, 4096), node) == errno.EINVAL
    assert errno_of(adapter, fuse.READ, read_in(0, 4096), ROOT) == errno.EINVAL


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("size", [256, 4096, 1 << 20])
def test_listing_in_pieces_has_each_name_once(
    adapter: ReadOnlyAdapter, size: int, *, plus: bool
) -> None:
    head = 128 if plus else 0
    opcode = fuse.READDIRPLUS if plus else fuse.READDIR
    names, offset = [], 0
    while part := body_of(adapter, opcode, read_in(offset, size)):
        assert len(part) <= size
        at = 0
        while at < len(part):
            inode, offset, length, _ = fuse.DIRENT.unpack_from(part, at + head)
            name = part[at + head + 24 :][:length]
            if plus and name not in (b".", b".."):
                assert fuse.ENTRY_HEAD.unpack_from(part, at)[0] == found(adapter, name)
                assert fuse.ATTR.unpack_from(part, at + fuse.ENTRY_HEAD.size)[0] == inode
            names.append(name)
            at += head + (24 + length + 7) // 8 * 8
    assert names == [b".", b"..", *NAMES]


def test_listing_a_file_is_enotdir(adapter: ReadOnlyAdapter) -> None:
    node = found(adapter, b"file")
    assert errno_of(adapter, fuse.READDIR, read_in(0, 4096), node) == errno.ENOTDIR


def test_symlink_target_is_returned(adapter: ReadOnlyAdapter) -> None:
    assert body_of(adapter, fuse.READLINK, node=found(adapter, b"link")) == b"file"
    assert errno_of(adapter, fuse.READLINK) == errno.EINVAL


def test_xattr_size_and_value_are_returned(adapter: ReadOnlyAdapter) -> None:
    node = found(adapter, b"file")

    def get(size: int) -> bytes:
        return fuse.XATTR.pack(size, 0) + b"user.kind\0"

    assert fuse.XATTR.unpack(body_of(adapter, fuse.GETXATTR, get(0), node))[0] == 5
    assert body_of(adapter, fuse.GETXATTR, get(5), node) == b"plain"
    assert errno_of(adapter, fuse.GETXATTR, get(4), node) == errno.ERANGE
    assert errno_of(adapter, fuse.GETXATTR, get(5)) == errno.ENODATA
    assert body_of(adapter, fuse.LISTXATTR, fuse.XATTR.pack(99, 0), node) == b"user.kind\0"


def test_lseek_finds_data_and_holes(adapter: ReadOnlyAdapter) -> None:
    node = found(adapter, b"file")
    hole = fuse.LSEEK_IN.pack(0, 1, os.SEEK_HOLE, 0)
    assert fuse.LSEEK_OUT.unpack(body_of(adapter, fuse.LSEEK, hole, node)) == (8000,)
    beyond = fuse.LSEEK_IN.pack(0, 9000, os.SEEK_DATA, 0)
    assert errno_of(adapter, fuse.LSEEK, beyond, node) == errno.ENXIO


def test_number_of_open_files_is_limited(tree: MergedTree, tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / str(number)).write_bytes(b"%d" % number)
    adapter = ReadOnlyAdapter(merge([tmp_path], WhiteoutFormat.USER))
    before = len(os.listdir("/proc/self/fd"))
    for number in range(200):
        node = found(adapter, b"%d" % number)
        assert body_of(adapter, fuse.READ, read_in(0, 9), node) == b"%d" % number
    assert len(os.listdir("/proc/self/fd")) - before <= 128
    adapter.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("device", "encoded"),
    [((1, 3), 0x103), ((8, 255), 0x8FF), ((8, 256), 0x100800), ((0xFFF, 0xFFFFF), 0xFFFFFFFF)],
)
def test_device_numbers_are_encoded_as_in_the_kernel(device: tuple[int, int], encoded: int) -> None:
    assert fuse.device_number(os.makedev(*device)) == encoded
