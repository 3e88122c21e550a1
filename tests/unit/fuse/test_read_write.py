"""The writable adapter, request by request, without a kernel."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stacker.fuse import protocol as fuse
from stacker.fuse.read_write import WritableAdapter
from tests.support.snapshot import snapshot
from tests.support.stacks import scratch
from tests.support.writable import Writable

ROOT = fuse.ROOT_ID
USER = os.geteuid(), os.getegid()
WITHOUT_REPLY = (fuse.FORGET, fuse.BATCH_FORGET, fuse.INTERRUPT)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Writable]:
    lower = tmp_path / "lower"
    (lower / "dir").mkdir(parents=True)
    (lower / "file").write_bytes(b"contents" * 1000)
    tree = Writable(tmp_path, whiteout_format="user")
    yield tree
    tree.close()


@pytest.fixture
def adapter(tree: Writable) -> WritableAdapter:
    return WritableAdapter(tree.tree)


def request(opcode: int, body: bytes = b"", node: int = ROOT) -> bytes:
    size = fuse.IN_HEADER.size + len(body)
    return fuse.IN_HEADER.pack(size, opcode, 7, node, *USER, 1, 0, 0) + body


def body_of(adapter: WritableAdapter, opcode: int, body: bytes = b"", node: int = ROOT) -> bytes:
    reply = adapter.answer(request(opcode, body, node))
    assert reply is not None
    size, error, unique = fuse.OUT_HEADER.unpack_from(reply)
    assert (size, error, unique) == (len(reply), 0, 7), os.strerror(-error)
    return bytes(reply[fuse.OUT_HEADER.size :])


def errno_of(adapter: WritableAdapter, opcode: int, body: bytes = b"", node: int = ROOT) -> int:
    reply = adapter.answer(request(opcode, body, node))
    assert reply is not None
    size, error, unique = fuse.OUT_HEADER.unpack(reply)
    assert (size, unique) == (fuse.OUT_HEADER.size, 7)
    return -int(error)


def entry(reply: bytes) -> int:
    """Return the node of an entry."""
    return int(fuse.ENTRY_HEAD.unpack_from(reply)[0])


def found(adapter: WritableAdapter, name: bytes) -> int:
    return entry(body_of(adapter, fuse.LOOKUP, name + b"\0"))


def create(name: bytes, mode: int = 0o640, umask: int = 0) -> bytes:
    return fuse.MKNOD_IN.pack(stat.S_IFREG | mode, 0, umask, 0) + name + b"\0"


def write(offset: int, data: bytes, flags: int = 0) -> bytes:
    return fuse.WRITE_IN.pack(0, offset, len(data), flags, 0, 0, 0) + data


def test_structures_have_the_sizes_of_the_header_file() -> None:
    sizes = {
        "SETATTR_IN": 88,
        "MKNOD_IN": 16,
        "MKDIR_IN": 8,
        "RENAME2_IN": 16,
        "CREATE_IN": 16,
        "OPEN_OUT": 16,
        "WRITE_IN": 40,
        "WRITE_OUT": 8,
        "FSYNC_IN": 16,
        "SETXATTR_IN": 8,
        "SETXATTR_EXT_IN": 16,
        "FALLOCATE_IN": 32,
        "COPY_IN": 56,
        "FORGET_ONE": 16,
    }
    assert {name: getattr(fuse, name).size for name in sizes} == sizes


def test_init_asks_for_large_writes_and_no_writeback_cache(adapter: WritableAdapter) -> None:
    everything = 0xFFFFFFFF
    reply = body_of(adapter, fuse.INIT, fuse.INIT_IN.pack(7, 40, 1 << 17, everything))
    _, _, _, flags, _, _, largest, _, pages, *_ = fuse.INIT_OUT.unpack(reply)
    assert (largest, pages) == (1 << 20, 256)
    writeback_cache, posix_acl, no_open = 1 << 16, 1 << 20, 1 << 17
    assert flags & writeback_cache == 0
    assert flags & no_open
    assert flags & posix_acl
    assert adapter.request_size >= largest + fuse.IN_HEADER.size + fuse.WRITE_IN.size


def test_init_omits_killpriv_v2_for_linux_5_4(adapter: WritableAdapter) -> None:
    offered = (1 << 26) - 1
    reply = body_of(adapter, fuse.INIT, fuse.INIT_IN.pack(7, 31, 1 << 17, offered))
    _, minor, _, flags, *_ = fuse.INIT_OUT.unpack(reply)
    newer = fuse.INIT_HANDLE_KILLPRIV_V2 | fuse.INIT_SETXATTR_EXT
    assert (minor, flags) == (31, (fuse.WANTED_TO_WRITE | fuse.WANTED_FOR_ACLS) & ~newer)


@pytest.mark.parametrize(("flags", "mode"), [(0, 0o666), (fuse.INIT_DONT_MASK, 0o640)])
def test_umask_is_applied_once(
    adapter: WritableAdapter, tree: Writable, flags: int, mode: int
) -> None:
    body_of(adapter, fuse.INIT, fuse.INIT_IN.pack(7, 31, 0, flags))
    body_of(adapter, fuse.MKNOD, create(b"new", 0o666, umask=0o027))
    assert stat.S_IMODE((tree.upper / "new").stat().st_mode) == mode


@pytest.mark.parametrize("extended", [False, True])
def test_setxattr_is_read_in_both_layouts(
    adapter: WritableAdapter, tree: Writable, *, extended: bool
) -> None:
    flags = fuse.INIT_SETXATTR_EXT if extended else 0
    body_of(adapter, fuse.INIT, fuse.INIT_IN.pack(7, 31, 0, flags))
    head = fuse.SETXATTR_EXT_IN.pack(2, 0, 0, 0) if extended else fuse.SETXATTR_IN.pack(2, 0)
    body_of(adapter, fuse.SETXATTR, head + b"user.new\0" + b"ab", found(adapter, b"file"))
    assert os.getxattr(tree.upper / "file", "user.new") == b"ab"


def test_create_is_not_implemented_so_that_the_kernel_sends_mknod(
    adapter: WritableAdapter,
) -> None:
    body = fuse.CREATE_IN.pack(os.O_RDWR | os.O_CREAT, stat.S_IFREG | 0o640, 0, 0) + b"new\0"
    assert errno_of(adapter, fuse.CREATE, body) == errno.ENOSYS


def test_file_is_created_written_and_read(adapter: WritableAdapter, tree: Writable) -> None:
    reply = body_of(adapter, fuse.MKNOD, create(b"new"))
    assert len(reply) == 128
    node = entry(reply)
    assert fuse.WRITE_OUT.unpack(body_of(adapter, fuse.WRITE, write(2, b"data"), node))[0] == 4
    read = fuse.READ_IN.pack(0, 0, 100, 0, 0, 0, 0)
    assert body_of(adapter, fuse.READ, read, node) == b"\0\0data"
    assert (tree.upper / "new").read_bytes() == b"\0\0data"
    assert stat.S_IMODE((tree.upper / "new").stat().st_mode) == 0o640


def test_write_with_kill_suidgid_clears_set_id_bits(
    adapter: WritableAdapter, tree: Writable
) -> None:
    node = entry(body_of(adapter, fuse.MKNOD, create(b"new", 0o4755)))
    body_of(adapter, fuse.WRITE, write(0, b"x", fuse.WRITE_KILL_SUIDGID), node)
    assert stat.S_IMODE((tree.upper / "new").stat().st_mode) == 0o755


def test_open_is_not_implemented(adapter: WritableAdapter) -> None:
    for opcode in (fuse.OPEN, fuse.OPENDIR, fuse.FLUSH):
        assert errno_of(adapter, opcode, bytes(24)) == errno.ENOSYS


def test_unknown_operations_are_enosys(adapter: WritableAdapter) -> None:
    for opcode in (34, 40, 50, 53, 4711):
        assert errno_of(adapter, opcode, bytes(64)) == errno.ENOSYS


def test_name_with_a_slash_is_einval(adapter: WritableAdapter, tree: Writable) -> None:
    assert errno_of(adapter, fuse.MKNOD, create(b"../new")) == errno.EINVAL
    assert errno_of(adapter, fuse.UNLINK, b"dir/..\0") == errno.EINVAL
    assert errno_of(adapter, fuse.MKDIR, fuse.MKDIR_IN.pack(0o755, 0) + b"..\0") == errno.EINVAL
    assert sorted(os.listdir(tree.workspace)) == ["lower", "upper", "work"]


def test_truncated_request_is_einval_and_changes_nothing(
    adapter: WritableAdapter, tree: Writable
) -> None:
    node = found(adapter, b"file")
    assert errno_of(adapter, fuse.MKNOD, create(b"new")[:-1]) == errno.EINVAL
    assert errno_of(adapter, fuse.WRITE, write(0, b"data")[:-1], node) == errno.EINVAL
    assert errno_of(adapter, fuse.SETATTR, bytes(80), node) == errno.EINVAL
    assert errno_of(adapter, fuse.RENAME, fuse.NODE_IN.pack(ROOT) + b"file\0") == errno.EINVAL
    value = fuse.SETXATTR_IN.pack(100, 0) + b"user.x\0v"
    assert errno_of(adapter, fuse.SETXATTR, value, node) == errno.EINVAL
    assert os.listdir(tree.upper) == []


def test_forget_counts_lookups(adapter: WritableAdapter) -> None:
    node = entry(body_of(adapter, fuse.MKNOD, create(b"new")))
    assert found(adapter, b"new") == node
    body_of(adapter, fuse.UNLINK, b"new\0")
    assert adapter.answer(request(fuse.FORGET, fuse.FORGET_IN.pack(1), node)) is None
    body_of(adapter, fuse.WRITE, write(0, b"x"), node)
    batch = fuse.BATCH_FORGET_IN.pack(2, 0) + fuse.FORGET_ONE.pack(node, 1)
    assert adapter.answer(request(fuse.BATCH_FORGET, batch)) is None  # truncated as well
    assert errno_of(adapter, fuse.WRITE, write(0, b"x"), node) == errno.ESTALE


def test_listing_counts_only_the_returned_nodes(adapter: WritableAdapter) -> None:
    """An entry that does not fit into the reply is not a lookup."""
    nodes = [entry(body_of(adapter, fuse.MKNOD, create(b"n%d" % number))) for number in range(9)]
    body_of(adapter, fuse.READDIRPLUS, fuse.READ_IN.pack(0, 4, 160 * 3, 0, 0, 0, 0))
    for number, node in enumerate(nodes):
        body_of(adapter, fuse.UNLINK, b"n%d\0" % number)
        adapter.answer(request(fuse.FORGET, fuse.FORGET_IN.pack(1), node))
    left = [node for node in nodes if adapter.answer(request(fuse.GETATTR, bytes(16), node))]
    alive = [
        node
        for node in left
        if fuse.OUT_HEADER.unpack_from(
            adapter.answer(request(fuse.GETATTR, bytes(16), node)) or b""
        )[1]
        == 0
    ]
    assert alive == nodes[:3]


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("size", [256, 4096])
def test_listing_in_pieces_has_each_name_once(
    adapter: WritableAdapter, size: int, *, plus: bool
) -> None:
    for number in range(50):
        body_of(adapter, fuse.MKNOD, create(b"n%d" % number))
    head, names, offset = (128 if plus else 0), [], 0
    opcode = fuse.READDIRPLUS if plus else fuse.READDIR
    while part := body_of(adapter, opcode, fuse.READ_IN.pack(0, offset, size, 0, 0, 0, 0)):
        assert len(part) <= size
        at = 0
        while at < len(part):
            _, offset, length, _ = fuse.DIRENT.unpack_from(part, at + head)
            names.append(part[at + head + 24 :][:length])
            at += head + (24 + length + 7) // 8 * 8
    assert names[:2] == [b".", b".."]
    assert sorted(names[2:]) == sorted([b"dir", b"file", *(b"n%d" % n for n in range(50))])


OPCODES = sorted(fuse.WRITING | set(range(60)))
bodies = st.one_of(
    st.binary(max_size=120),
    st.builds(
        lambda head, name: head + name + b"\0", st.binary(max_size=16), st.binary(max_size=9)
    ),
    st.sampled_from([b"file\0", b"dir\0", b"new\0", create(b"new"), write(0, b"x"), bytes(88)]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(OPCODES), st.integers(0, 8), bodies), max_size=30))
def test_no_request_is_eio_or_escapes_the_tree(
    requests: list[tuple[int, int, bytes]],
) -> None:
    with scratch() as workspace:
        (workspace / "lower/dir").mkdir(parents=True)
        (workspace / "lower/file").write_bytes(b"x")
        before = snapshot(workspace / "lower")
        tree = Writable(workspace, whiteout_format="user")
        adapter = WritableAdapter(tree.tree)
        for opcode, node, body in requests:
            reply = adapter.answer(request(opcode, body, node))
            if opcode in WITHOUT_REPLY:
                assert reply is None
                continue
            assert reply is not None
            assert fuse.OUT_HEADER.unpack_from(reply)[::2] == (len(reply), 7)
            assert (
                fuse.OUT_HEADER.unpack_from(reply)[1] != -errno.EIO
            )  # EIO means a bug in the adapter
        adapter.close()
        assert sorted(os.listdir(workspace)) == ["lower", "upper", "work"]
        assert snapshot(workspace / "lower") == before


@pytest.mark.parametrize("device", [(1, 3), (8, 255), (8, 256), (0xFFF, 0xFFFFF)])
def test_device_numbers_survive_encoding(device: tuple[int, int]) -> None:
    number = os.makedev(*device)
    assert fuse.device_of(fuse.device_number(number)) == number
