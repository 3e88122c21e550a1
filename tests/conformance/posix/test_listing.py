"""readdir(3): a listing has every name once, while others are added and removed."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from tests.conformance.posix.cases import fails, names, opened, touch
from tests.support.subjects import LOWER, MERGED, CaseDirectory, Mounted
from tests.support.syscalls import Dirent, getdents
from tests.support.templates import CROWD, LONG, NAMES

ALL = {thing.path for thing in CROWD}
SMALL = 256
"""Buffer size for getdents64(2): three names at a time."""


@pytest.fixture
def crowd(mounted: Mounted, kind: str) -> CaseDirectory:
    return mounted.case_directory(kind, "crowd")


@pytest.fixture
def named(mounted: Mounted, kind: str) -> CaseDirectory:
    return mounted.case_directory(kind, "names")


def rest(directory: int) -> list[Dirent]:
    found: list[Dirent] = []
    while some := getdents(directory, SMALL):
        found += some
    return found


def listed(entries: list[Dirent]) -> list[bytes]:
    return sorted(entry.name for entry in entries)


def test_listing_has_every_name_once_and_the_dots(crowd: CaseDirectory) -> None:
    with opened(crowd.path, os.O_RDONLY | os.O_DIRECTORY) as directory:
        assert listed(rest(directory)) == sorted([b".", b"..", *ALL])
        assert getdents(directory) == []


def test_listing_has_types_and_inode_numbers(case: CaseDirectory) -> None:
    with opened(case.path, os.O_RDONLY | os.O_DIRECTORY) as directory:
        for entry in rest(directory):
            if entry.name == b"..":
                continue
            status = os.lstat(entry.name, dir_fd=directory)
            assert entry.kind == stat.S_IFMT(status.st_mode) >> 12, entry.name
            assert entry.inode == status.st_ino, entry.name


def test_deletion_while_listing_skips_no_other_name(crowd: CaseDirectory) -> None:
    seen: list[bytes] = []
    with opened(crowd.path, os.O_RDONLY | os.O_DIRECTORY) as directory:
        while some := getdents(directory, SMALL):
            for entry in some:
                seen.append(entry.name)
                if entry.name not in {b".", b".."}:
                    os.unlink(entry.name, dir_fd=directory)
    assert sorted(seen) == sorted([b".", b"..", *ALL])
    assert names(crowd.path) == set()
    os.rmdir(crowd.path)


def test_rewound_listing_is_current(crowd: CaseDirectory) -> None:
    with opened(crowd.path, os.O_RDONLY | os.O_DIRECTORY) as directory:
        first = getdents(directory, SMALL)
        assert 0 < len(first) < 6
        os.unlink(crowd / min(ALL))
        os.rename(crowd / max(ALL), crowd / "renamed")
        touch(crowd / "new")
        os.lseek(directory, 0, os.SEEK_SET)
        wanted = (ALL - {min(ALL), max(ALL)}) | {b"new", b"renamed", b".", b".."}
        assert listed(rest(directory)) == sorted(wanted)


def test_remaining_names_are_listed_once_while_others_change(crowd: CaseDirectory) -> None:
    stays = sorted(ALL)[10:30]
    with opened(crowd.path, os.O_RDONLY | os.O_DIRECTORY) as directory:
        found = getdents(directory, SMALL)
        for name in sorted(ALL)[:10]:
            os.unlink(crowd / name)
        for number in range(20):
            touch(crowd / f"new{number}")
        found += rest(directory)
    heard = [entry.name for entry in found]
    assert [heard.count(name) for name in stays] == [1] * len(stays)
    assert len(heard) == len(set(heard))


def test_deletion_is_visible_in_the_next_listing(crowd: CaseDirectory) -> None:
    with opened(crowd.path, os.O_RDONLY | os.O_DIRECTORY) as directory:
        heard = {entry.name for entry in getdents(directory, SMALL)}
        left = sorted(ALL - heard)
        for name in left[1:]:
            os.unlink(crowd / name)
        later = {entry.name for entry in rest(directory)}
    assert left[0] in later
    assert names(crowd.path) == {os.fsdecode(name) for name in (heard & ALL) | {left[0]}}


def test_seek_to_an_offset_continues_after_it(crowd: CaseDirectory) -> None:
    with opened(crowd.path, os.O_RDONLY | os.O_DIRECTORY) as directory:
        first = getdents(directory, SMALL)
        after = rest(directory)
        os.lseek(directory, first[-1].offset, os.SEEK_SET)
        assert listed(rest(directory)) == listed(after)
        os.lseek(directory, first[0].offset, os.SEEK_SET)
        assert listed(rest(directory)) == listed(first[1:] + after)


def test_two_concurrent_listings_are_independent(crowd: CaseDirectory) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY
    with opened(crowd.path, flags) as one, opened(crowd.path, flags) as two:
        first = getdents(one, SMALL)
        whole = rest(two)
        assert listed(first + rest(one)) == listed(whole) == sorted([b".", b"..", *ALL])


def test_empty_directory_has_only_the_dots(case: CaseDirectory) -> None:
    with opened(case / "hollow", os.O_RDONLY | os.O_DIRECTORY) as directory:
        assert listed(rest(directory)) == [b".", b".."]


def test_only_a_directory_is_listed(case: CaseDirectory) -> None:
    with opened(case / "file", os.O_RDONLY) as descriptor, fails(errno.ENOTDIR):
        getdents(descriptor)


def test_new_listing_has_each_change(case: CaseDirectory) -> None:
    before = names(case / "full")
    for number in range(5):
        touch(case / f"full/new{number}")
        assert names(case / "full") == before | {f"new{number}"}
        os.unlink(case / f"full/new{number}")
        assert names(case / "full") == before
    os.unlink(case / "full/inner")
    assert names(case / "full") == {"sub"}
    touch(case / "full/inner")
    assert names(case / "full") == {"sub", "inner"}


def test_every_byte_but_a_slash_makes_a_name(named: CaseDirectory) -> None:
    root = os.fsencode(named.path)
    assert set(os.listdir(root)) == {thing.path for thing in NAMES if b"/" not in thing.path}
    for thing in NAMES:
        path = root + b"/" + thing.path
        if thing.kind == "file":
            with open(path, "rb") as file:
                assert file.read() == thing.data, thing.path


def test_every_name_can_be_renamed_written_and_deleted(named: CaseDirectory) -> None:
    root = os.fsencode(named.path)
    for byte in range(1, 256):
        if byte == ord("/"):
            continue
        name = root + b"/x" + bytes([byte])
        os.rename(name, root + b"/" + bytes([byte]) + b"yy")
        with open(name, "xb") as file:
            file.write(b"again")
    assert len(os.listdir(root)) == 2 * 254 + 2
    for entry in os.listdir(root):
        if len(entry) in {2, 3}:
            os.unlink(root + b"/" + entry)
    assert len(os.listdir(root)) == 2


def test_name_of_255_bytes_is_like_any_other(named: CaseDirectory) -> None:
    deep = named / ("d" * 255) / LONG
    for path in (named / LONG, deep):
        assert path.read_bytes() == b"long"
        with fails(errno.ENAMETOOLONG):
            os.stat(str(path) + "n")
        os.chmod(path, 0o600)
        path.write_bytes(b"changed")
        os.link(path, path.parent / ("l" * 255))
        os.rename(path, path.parent / ("r" * 255))
        os.unlink(path.parent / ("l" * 255))
        assert not path.exists()
        assert (path.parent / ("r" * 255)).read_bytes() == b"changed"
        os.unlink(path.parent / ("r" * 255))
    os.rmdir(deep.parent)
    touch(deep.parent)
    assert names(named.path) >= {"d" * 255}


@pytest.mark.parametrize("name", [".wh.file", ".wh..wh..opq", ".wh.new", ".fuse_hidden1", "#0"])
def test_names_with_a_meaning_elsewhere_are_ordinary(case: CaseDirectory, name: str) -> None:
    before = names(case.path)
    (case / name).write_bytes(b"mine")
    assert names(case.path) == before | {name}
    assert (case / name).read_bytes() == b"mine"
    os.unlink(case / name)
    assert names(case.path) == before


def test_places_have_the_declared_kind(case: CaseDirectory) -> None:
    assert case.is_lower("file") == (case.kind in {LOWER, MERGED})
    assert case.is_lower("other") == (case.kind == LOWER)
