"""Every FUSE adapter: what a program gets from each system call."""

from __future__ import annotations

import errno
import mmap
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stacker.fuse.options import FuseAdapter, FuseOptions
from stacker.layer.paths import MergedIndex
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import mountapi
from stacker.mount.drivers.fuse import FuseDriver
from stacker.mount.plan import Plan
from tests.support.adapters import ADAPTERS, skip_without
from tests.support.indexes import merged_stack
from tests.support.syscalls import error_of
from tests.support.unprivileged import acting_as

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts, and makes devices: needs root"),
    pytest.mark.usefixtures("alone_among_mounts"),
]
MANY = [b"name-%04d" % number for number in range(3000)]
WHOLE = os.urandom(5 << 20)
BEFORE_1970 = -1_500_000_001
STRANGE = b"no \xff\xfe text"


def fill(layer: bytes) -> None:
    """Make a tree with unusual files."""
    for name in (b"many", b"files"):
        os.mkdir(os.path.join(layer, name))
    for name in MANY:
        _write(os.path.join(layer, b"many", name), b"")
    for number in range(200):
        _write(os.path.join(layer, b"files", b"%d" % number), b"contents of %d" % number)
    for name, data in ((b"big", WHOLE), (b"empty", b""), (STRANGE, b"strange"), (b"f" * 255, b"l")):
        _write(os.path.join(layer, name), data)
    os.link(os.path.join(layer, b"big"), os.path.join(layer, b"more"))
    os.symlink(b"../" * 500 + STRANGE, os.path.join(layer, b"link"))
    os.mknod(os.path.join(layer, b"device"), stat.S_IFCHR | 0o640, os.makedev(300, 70_000))
    os.mkfifo(os.path.join(layer, b"fifo"))
    os.utime(os.path.join(layer, b"empty"), ns=(0, BEFORE_1970))
    os.setxattr(os.path.join(layer, b"big"), "user.kind", b"\0binary")
    os.setxattr(os.path.join(layer, b"big"), "user.none", b"")
    os.setxattr(os.path.join(layer, b"big"), "trusted.kind", b"root's")


def _write(path: bytes, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    layer = tmp_path_factory.mktemp("layer")
    fill(os.fsencode(layer))
    return layer


@pytest.fixture(scope="module")
def index(layer: Path, tmp_path_factory: pytest.TempPathFactory) -> MergedIndex:
    """Return the index of the same layer, packed by GNU tar."""
    command = ["tar", "--format=pax", "--xattrs", "--xattrs-include=*", "-C", str(layer), "-c", "."]
    packed = subprocess.run(command, check=True, capture_output=True).stdout
    merged = merged_stack([packed], tmp_path_factory.mktemp("index"), WhiteoutFormat.USER).merged
    assert merged is not None
    return merged


TARGETS: dict[str, tuple[FuseAdapter, bool]] = {
    **{adapter: (adapter, False) for adapter in ADAPTERS},
    "passthrough": ("kernel", True),
}


@pytest.fixture(params=[*TARGETS, *(f"index by {name}" for name in TARGETS)])
def target(
    request: pytest.FixtureRequest, layer: Path, index: MergedIndex, tmp_path: Path
) -> Iterator[bytes]:
    adapter, passthrough = TARGETS[request.param.removeprefix("index by ")]
    merged = index if request.param.startswith("index") else None
    skip_without(adapter)
    target = tmp_path / "target"
    target.mkdir()
    options = FuseOptions(adapter, passthrough)
    FuseDriver().mount(
        Plan("adapters", target, (layer,), WhiteoutFormat.USER, fuse=options, merged=merged)
    )
    try:
        yield os.fsencode(target)
    finally:
        mountapi.umount2(target, mountapi.MNT_DETACH)


def test_large_directory_is_listed_completely_twice(target: bytes) -> None:
    many = os.path.join(target, b"many")
    for _ in range(2):
        assert sorted(os.listdir(many)) == MANY


def test_concurrent_listings_have_every_name_once(target: bytes) -> None:
    many = os.path.join(target, b"many")
    with os.scandir(many) as one, os.scandir(many) as other:
        pairs = list(zip(one, other, strict=True))
    assert sorted(entry.name for entry, _ in pairs) == MANY
    assert sorted(entry.name for _, entry in pairs) == MANY
    assert all(entry.is_file(follow_symlinks=False) for entry, _ in pairs)


def test_stat_equals_that_of_the_layer(target: bytes, layer: Path) -> None:
    for name in os.listdir(os.fsencode(layer)):
        mine, theirs = os.lstat(os.path.join(target, name)), os.lstat(layer / os.fsdecode(name))
        for field in ("st_mode", "st_uid", "st_gid", "st_rdev", "st_mtime_ns"):
            assert getattr(mine, field) == getattr(theirs, field), (name, field)
        if not stat.S_ISDIR(mine.st_mode):
            assert (mine.st_size, mine.st_nlink) == (theirs.st_size, theirs.st_nlink), name


def test_hard_links_are_one_inode(target: bytes) -> None:
    inodes = [os.stat(os.path.join(target, name)).st_ino for name in (b"big", b"more")]
    listed = [entry.inode() for entry in os.scandir(target) if entry.name in (b"big", b"more")]
    assert len({*inodes, *listed}) == 1


def test_missing_name_stays_missing(target: bytes) -> None:
    for _ in range(2):
        assert error_of(lambda: os.stat(os.path.join(target, b"nothing"))) == errno.ENOENT
    assert error_of(lambda: os.stat(os.path.join(target, b"big", b"x"))) == errno.ENOTDIR


def test_name_of_256_bytes_fails_with_enametoolong(target: bytes) -> None:
    assert os.path.exists(os.path.join(target, b"f" * 255))
    with pytest.raises(OSError) as caught:
        os.stat(os.path.join(target, b"f" * 256))
    assert caught.value.errno == errno.ENAMETOOLONG


def test_trusted_xattrs_are_listed_to_root_only(target: bytes) -> None:
    with open(os.path.join(target, b"big"), "rb") as big:
        assert sorted(os.listxattr(big.fileno())) == ["trusted.kind", "user.kind", "user.none"]
        with acting_as():
            assert sorted(os.listxattr(big.fileno())) == ["user.kind", "user.none"]


def test_file_is_read_at_any_offset(target: bytes) -> None:
    fd = os.open(os.path.join(target, b"big"), os.O_RDONLY)
    try:
        for at in (0, 1, 4095, 131_071, (1 << 20) - 1, len(WHOLE) - 3, len(WHOLE), 1 << 40):
            assert os.pread(fd, 200_000, at) == WHOLE[at : at + 200_000]
    finally:
        os.close(fd)


def test_concurrent_readers_get_complete_files(target: bytes) -> None:
    """The server prefetches some files while other processes read them."""

    def read(_: int) -> list[bytes]:
        names = sorted(os.listdir(os.path.join(target, b"files")), key=int)
        return [
            Path(os.fsdecode(os.path.join(target, b"files", name))).read_bytes() for name in names
        ]

    expected = [b"contents of %d" % number for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(read, range(16)):
            assert found == expected


def test_file_can_be_mapped_into_memory(target: bytes) -> None:
    with (
        open(os.path.join(target, b"more"), "rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped,
    ):
        assert mapped[:] == WHOLE


def test_more_files_can_be_open_than_the_server_caches(target: bytes) -> None:
    paths = [os.path.join(target, b"files", b"%d" % number) for number in range(200)]
    opened = [os.open(path, os.O_RDONLY) for path in paths]
    try:
        for _ in range(2):
            for number, fd in enumerate(opened):
                assert os.pread(fd, 100, 0) == b"contents of %d" % number
    finally:
        for fd in opened:
            os.close(fd)


def test_symlinks_and_unusual_names_are_exposed(target: bytes) -> None:
    assert os.readlink(os.path.join(target, b"link")) == b"../" * 500 + STRANGE
    assert error_of(lambda: os.readlink(os.path.join(target, b"big"))) == errno.EINVAL
    with open(os.path.join(target, STRANGE), "rb") as file:
        assert file.read() == b"strange"


def test_xattrs_are_returned_and_missing_ones_fail_with_enodata(target: bytes) -> None:
    big = os.path.join(target, b"big")
    assert sorted(os.listxattr(big)) == ["trusted.kind", "user.kind", "user.none"]
    assert os.getxattr(big, "user.kind") == b"\0binary"
    assert os.getxattr(big, "user.none") == b""
    assert error_of(lambda: os.getxattr(big, "user.no")) == errno.ENODATA
    assert os.listxattr(os.path.join(target, b"empty")) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda at: os.open(os.path.join(at, b"big"), os.O_WRONLY),
        lambda at: os.open(os.path.join(at, b"new"), os.O_CREAT | os.O_WRONLY),
        lambda at: os.mkdir(os.path.join(at, b"new")),
        lambda at: os.unlink(os.path.join(at, b"big")),
        lambda at: os.rename(os.path.join(at, b"big"), os.path.join(at, b"new")),
        lambda at: os.chmod(os.path.join(at, b"big"), 0o600),
        lambda at: os.truncate(os.path.join(at, b"big"), 0),
        lambda at: os.setxattr(os.path.join(at, b"big"), "user.new", b"x"),
    ],
    ids=["open", "create", "mkdir", "unlink", "rename", "chmod", "truncate", "setxattr"],
)
def test_every_write_fails(target: bytes, change: Callable[[bytes], object]) -> None:
    assert error_of(lambda: change(target)) == errno.EROFS


@pytest.mark.parametrize("target", TARGETS, indirect=True)  # a mount of an index holds tars open
def test_file_missing_in_the_layer_is_an_error_and_the_server_continues(
    target: bytes, layer: Path
) -> None:
    below, name = layer / "files" / "7", os.path.join(target, b"files", b"7")
    data = below.read_bytes()
    below.unlink()
    try:
        assert error_of(lambda: Path(os.fsdecode(name)).read_bytes()) == errno.ENOENT
    finally:
        below.write_bytes(data)
    with open(name, "rb") as file:
        assert file.read() == data


def _is_index(request: pytest.FixtureRequest) -> bool:
    name: str = request.node.callspec.params["target"]
    return name.startswith("index")


def test_statfs_returns_the_number_of_files(target: bytes, request: pytest.FixtureRequest) -> None:
    found = os.statvfs(target)
    files = 1 + 2 + 3000 + 200 + (7 if _is_index(request) else 8)  # an index counts inodes
    assert (found.f_files, found.f_ffree, found.f_bavail) == (files, 0, 0)
    assert (found.f_namemax, found.f_bsize) == (255, 4096)
