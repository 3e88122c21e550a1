"""The headers of tar members, read by GNU tar, bsdtar and stacker's own reader."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from stacker.errors import UnsupportedError
from stacker.tar.entry import Directory, File, Segment, Special, Symlink
from stacker.tar.reader import TarReader
from stacker.tar.write import END, Member, member_header, padded, sparse_map

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes owners: needs root")
EXTRACTORS = {
    "GNU tar": ("tar", "-xpf", "-", "--numeric-owner", "--xattrs", "--xattrs-include=*"),
    "bsdtar": ("bsdtar", "-xpf", "-", "--numeric-owner"),
}
each_extractor = pytest.mark.parametrize("extractor", EXTRACTORS)


def extract(tar: bytes, directory: Path, extractor: str) -> None:
    words = EXTRACTORS[extractor]
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    locale = {**os.environ, "LC_ALL": "C.UTF-8"}
    subprocess.run([*words, "-C", directory], input=tar, check=True, env=locale)


def test_short_member_has_no_pax_header() -> None:
    assert len(member_header(Member(b"a" * 100, b"0", size=3, mtime=7 * 10**9))) == 512


@needs_root
@each_extractor
@pytest.mark.parametrize(
    "mtime", [0, 1_500_000_000, 1_000_000_001, -1_000_000_000, 9_000_000_000 * 10**9]
)
def test_time_is_kept_to_the_nanosecond(tmp_path: Path, extractor: str, mtime: int) -> None:
    extract(member_header(Member(b"f", b"0", mtime=mtime)) + END, tmp_path, extractor)
    assert (tmp_path / "f").stat().st_mtime_ns == mtime


@needs_root
@pytest.mark.parametrize("mtime", [-1, -1_500_000_000])
def test_gnu_tar_keeps_a_fraction_before_the_epoch(tmp_path: Path, mtime: int) -> None:
    # libarchive adds the fraction to the negative seconds.
    extract(member_header(Member(b"f", b"0", mtime=mtime)) + END, tmp_path, "GNU tar")
    assert (tmp_path / "f").stat().st_mtime_ns == mtime


@needs_root
@each_extractor
def test_large_owner_and_long_names_are_kept(tmp_path: Path, extractor: str) -> None:
    name, target = b"d" * 150, b"t" * 300
    member = Member(name, b"2", uid=4_000_000_000, gid=1 << 21, target=target)
    extract(member_header(member) + END, tmp_path, extractor)
    path = os.fsencode(tmp_path) + b"/" + name
    status = os.lstat(path)
    assert (status.st_uid, status.st_gid) == (4_000_000_000, 1 << 21)
    assert os.readlink(path) == target


@each_extractor
@pytest.mark.parametrize("name", [b"caf\xc3\xa9" * 40, b"\xff\xfe", b"\xff" * 150, b"a\nb" * 50])
def test_name_is_kept_byte_for_byte(tmp_path: Path, extractor: str, name: bytes) -> None:
    extract(member_header(Member(name, b"0")) + END, tmp_path, extractor)
    assert os.listdir(os.fsencode(tmp_path)) == [name]


@needs_root
@each_extractor
def test_xattrs_and_devices_are_kept(tmp_path: Path, extractor: str) -> None:
    xattrs = {b"user.note": b"\0\n=\xff", b"trusted.x": b""}
    tar = member_header(Member(b"f", b"0", xattrs=xattrs))
    tar += member_header(Member(b"null", b"3", device=(1, 3)))
    extract(tar + END, tmp_path, extractor)
    assert os.getxattr(tmp_path / "f", "user.note") == b"\0\n=\xff"
    assert os.getxattr(tmp_path / "f", "trusted.x") == b""
    assert (tmp_path / "null").stat().st_rdev == os.makedev(1, 3)


def test_xattr_name_with_an_equals_sign_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="want one without `=`"):
        member_header(Member(b"f", b"0", xattrs={b"user.a=b": b"1"}))


@each_extractor
@pytest.mark.parametrize(
    "segments",
    [
        [Segment(0, 1024), Segment(1 << 20, 512), Segment(1 << 21, 0)],
        [Segment(1 << 20, 512), Segment(1 << 21, 0)],
        [Segment(1 << 21, 0)],
        [Segment(0, 512), Segment((1 << 21) - 7, 7)],
    ],
)
def test_sparse_file_is_kept(tmp_path: Path, extractor: str, segments: list[Segment]) -> None:
    size, wanted = 1 << 21, bytearray(1 << 21)
    for offset, length in segments:
        wanted[offset : offset + length] = b"x" * length
    head, data = sparse_map(segments), b"x" * sum(length for _, length in segments)
    name = b"long/" * 30 + b"sparse"
    tar = member_header(Member(name, b"0", size=len(head) + len(data), sparse=size))
    extract(tar + head + padded(data) + END, tmp_path, extractor)
    assert (tmp_path / os.fsdecode(name)).read_bytes() == wanted


def test_own_reader_reads_the_members_back() -> None:
    stream = b"".join(
        [
            member_header(Member(b"d/", b"5", mode=0o1777)),
            member_header(Member(b"d/f", b"0", size=2, uid=1 << 31)) + padded(b"hi"),
            member_header(Member(b"d/l", b"2", target=b"f" * 200)),
            member_header(Member(b"d/n", b"4", device=(8, 300))),
            END,
        ]
    )
    found = list(TarReader(iter([stream]), what="test"))
    directory, plain, link, device = found
    assert isinstance(directory, Directory)
    assert directory.meta.mode == 0o1777
    assert isinstance(plain, File)
    assert (plain.size, plain.meta.uid) == (2, 1 << 31)
    assert isinstance(link, Symlink)
    assert link.target == b"f" * 200
    assert isinstance(device, Special)
    assert device.device == os.makedev(8, 300)
