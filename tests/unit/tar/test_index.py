"""Listing the members of an archive without their payloads."""

from __future__ import annotations

import io

import pytest

from stacker.errors import LayerError
from stacker.tar.index import Member, read_index
from tests.support import tars
from tests.support.tars import dir, fifo, file, hardlink, header, pax, symlink, tar, whiteout  # noqa: A004


def index(stream: bytes) -> list[Member]:
    return list(read_index(io.BytesIO(stream), "test"))


class Counting(io.BytesIO):
    """A file that counts the bytes read from it."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.taken += len(data)
        return data


def test_index_gives_the_range_of_each_member() -> None:
    contents = {b"a": b"1" * 700, b"b/c": b"", b"d": b"x" * 100_000, b"e": b"end"}
    stream = tar(*(file(name, data) for name, data in contents.items()))
    found = index(stream)
    assert {m.name: stream[m.offset : m.offset + m.size] for m in found} == contents


def test_index_reads_no_payloads() -> None:
    archive = Counting(tar(file("a", bytes(10 << 20)), file("b", bytes(10 << 20)), file("c")))
    assert [member.name for member in read_index(archive, "test")] == [b"a", b"b", b"c"]
    assert archive.taken < 100_000


def test_index_lists_links_and_directories_but_no_devices() -> None:
    found = index(
        tar(
            dir("d"), symlink("d/l", "../a"), hardlink("h", "/a"), fifo("p"), whiteout("w"),
            pax(path="long" * 50), file("short", b"1"),
        )
    )  # fmt: skip
    assert [(m.name, m.kind, m.linkname) for m in found] == [
        (b"d", b"5", b""),
        (b"d/l", b"2", b"../a"),
        (b"h", b"1", b"a"),
        (b"long" * 50, b"0", b""),
    ]


def test_truncated_member_is_an_error() -> None:
    stream = tar(file("a", b"x" * 2000), file("b", b"y" * 2000), end=False)
    for cut in (512 + 1, 512 + 2000, 2560 + 100, 2560 + 512 + 10):
        with pytest.raises(LayerError, match=r"truncated|malformed archive"):
            index(stream[:cut])


def test_member_larger_than_the_archive_is_an_error() -> None:
    with pytest.raises(LayerError, match="malformed archive"):
        index(tar(header("a", size=1 << 60)))


def test_sparse_member_is_an_error() -> None:
    with pytest.raises(LayerError, match="malformed archive"):
        index(tar(tars.sparse_01("s", 100, [(0, b"x")])))


def test_empty_archive_has_no_members() -> None:
    assert index(b"") == index(tar()) == []


def test_file_that_is_no_archive_is_an_error() -> None:
    with pytest.raises(LayerError, match="malformed tar"):
        index(b"PK\x03\x04".ljust(2000, b"x"))
