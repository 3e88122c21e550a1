"""Parsing headers into entries (docs/rules.md, Tar dialects)."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stacker.errors import LayerError
from stacker.tar.entry import (
    AufsFile,
    Directory,
    File,
    HardLink,
    OpaqueWhiteout,
    Special,
    Symlink,
    Whiteout,
)
from stacker.tar.header import number
from stacker.tar.reader import TarReader
from tests.support.tars import (
    BLOCK,
    GNU,
    MTIME,
    USTAR,
    V7,
    base256,
    char,
    dir,  # noqa: A004 - the word for it
    entry,
    fifo,
    file,
    gnu_link,
    gnu_name,
    hardlink,
    header,
    opaque,
    pax,
    resummed,
    symlink,
    tar,
    whiteout,
)
from tests.support.unpacking import chunked, entries_of, only_entry, path_of


# -- entry types ------------------------------------------------------------------------------
def test_each_type_flag_gives_its_entry_type() -> None:
    kinds = [
        type(found)
        for found in entries_of(
            tar(
                file("a"),
                dir("b"),
                symlink("c", "t"),
                hardlink("d", "a"),
                char("e", 1, 3),
                fifo("f"),
                whiteout("g"),
                opaque("h"),
                file(".wh..wh.aufs"),
            )
        )
    ]
    assert kinds == [
        File, Directory, Symlink, HardLink, Special, Special, Whiteout, OpaqueWhiteout, AufsFile,
    ]  # fmt: skip


@pytest.mark.parametrize("flag", [b"0", b"\0", b"7"])
def test_regular_old_and_contiguous_files_are_files(flag: bytes) -> None:
    assert isinstance(only_entry(tar(file("a", b"1", flag=flag))), File)


def test_old_file_whose_name_ends_in_a_slash_is_a_directory() -> None:
    assert isinstance(only_entry(tar(entry("a/", flag=b"\0", magic=V7))), Directory)


def test_gnu_dumpdir_is_a_directory_and_its_list_is_skipped() -> None:
    found = entries_of(tar(entry("d/", b"Yname\0\0" * 100, flag=b"D", magic=GNU), file("x")))
    assert [type(each) for each in found] == [Directory, File]


@pytest.mark.parametrize("flag", [b"V", b"M", b"N", b"A", b"8", b"\xff", b" "])
def test_unknown_type_is_refused(flag: bytes) -> None:
    with pytest.raises(LayerError, match="unknown entry type"):
        entries_of(tar(entry("a", flag=flag)))


@pytest.mark.parametrize("flag", [b"1", b"2", b"3", b"4", b"5", b"6"])
def test_header_only_types_have_no_payload_whatever_their_size(flag: bytes) -> None:
    found = entries_of(tar(entry("a", flag=flag, link="t", size=12345, minor=1), file("x", b"1")))
    assert isinstance(found[1], File)
    found = entries_of(tar(pax(size="999"), entry("a", flag=flag, link="t", minor=1), file("x")))
    assert isinstance(found[1], File)


def test_devices_keep_their_numbers() -> None:
    found = only_entry(tar(entry("sda", flag=b"4", major=8, minor=b"0000021")))
    assert isinstance(found, Special)
    assert (found.kind, found.device) == (stat.S_IFBLK, os.makedev(8, 17))


# -- names ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [b"a", b"n" * 100, b"\xff", b"a\nb", b" a ", "ü/ö".encode()])
def test_name_is_bytes(name: bytes) -> None:
    assert path_of(tar(file(name))) == name


@pytest.mark.parametrize("magic", [USTAR, b"ustar\0\0\0", b"ustar\x0001", b"ustar\0  "])
def test_ustar_prefix_precedes_the_name_in_any_version(magic: bytes) -> None:
    assert path_of(tar(file("b", prefix=b"p/q", magic=magic))) == b"p/q/b"
    full = tar(file("n" * 100, prefix=b"p" * 155, magic=magic))
    assert path_of(full) == b"p" * 155 + b"/" + b"n" * 100


@pytest.mark.parametrize("magic", [GNU, V7, b"rubbish!"])
def test_prefix_field_of_other_dialects_is_not_a_name(magic: bytes) -> None:
    assert path_of(tar(file("b", prefix=b"12345678901 0000000000 ", magic=magic))) == b"b"


def test_star_keeps_times_at_the_end_of_the_prefix() -> None:
    block = bytearray(header("b", prefix=b"p".ljust(131, b"\0") + b"07777777777\x0007777777777\0"))
    block[508:512] = b"tar\0"
    assert path_of(tar(resummed(bytes(block)))) == b"p/b"


def test_pax_path_and_linkpath_override_the_header() -> None:
    long = "d/" * 200 + "x"
    assert path_of(tar(pax(path=long) + file("short"))) == long.encode()
    found = only_entry(tar(pax(path="l", linkpath="t" * 500) + symlink("x", "y")))
    assert isinstance(found, Symlink)
    assert (found.path, found.target) == (b"l", b"t" * 500)


def test_gnu_long_names_override_header_and_pax() -> None:
    found = only_entry(tar(gnu_name("n" * 300), gnu_link("t" * 300), symlink("x", "y")))
    assert isinstance(found, Symlink)
    assert (found.path, found.target) == (b"n" * 300, b"t" * 300)
    both = tar(gnu_name("gnu"), pax(path="pax"), file("x"))
    assert path_of(both) == b"gnu"
    assert path_of(tar(pax(path="pax"), gnu_name("gnu"), file("x"))) == b"gnu"


def test_long_name_applies_to_one_entry() -> None:
    found = entries_of(
        tar(gnu_name("long"), file("a"), file("b"), pax(path="pax"), file("c"), file("d"))
    )
    assert [each.path for each in found] == [b"long", b"b", b"pax", b"d"]


def test_gnu_name_ends_at_nul() -> None:
    assert path_of(tar(gnu_name(b"abc\0def"), file("x"))) == b"abc"


def test_pax_name_ends_at_nul() -> None:
    assert path_of(tar(pax(path=b"abc\0def"), file("x"))) == b"abc"


def test_sparse_name_ends_at_nul() -> None:
    stream = tar(pax(("GNU.sparse.name", b"a\0b"), ("GNU.sparse.size", "0")), file("x"))
    assert path_of(stream) == b"a"


def test_empty_pax_value_keeps_the_header_value() -> None:
    assert path_of(tar(pax(path="", uid="", mtime=""), file("x"))) == b"x"


# -- numbers ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"0000644\0", 0o644),
        (b" 644 \0\0\0", 0o644),
        (b"0000644 ", 0o644),
        (b"7777777", 0o7777777),
        (b"\0" * 8, 0),
        (b" " * 8, 0),
        (b"12\x0099999", 0o12),
        (base256(5, 8), 5),
        (base256(-5, 8), -5),
        (base256(-1, 12), -1),
        (base256((1 << 63) - 1, 12), (1 << 63) - 1),
        (base256(-(1 << 63), 12), -(1 << 63)),
        (base256(1 << 40, 8), 1 << 40),
    ],
)
def test_numbers_are_octal_or_base_256(field: bytes, value: int) -> None:
    assert number(field) == value


@pytest.mark.parametrize(
    "field",
    [b"0000648\0", b"-1\0", b"+1\0", b"0x10\0", b"0o17\0", b"1_0\0", b"1 1\0", b"abc\0",
     base256(1 << 63, 12), base256(-(1 << 63) - 1, 12), base256(1 << 90, 12)],
)  # fmt: skip
def test_malformed_number_is_an_error(field: bytes) -> None:
    with pytest.raises(ValueError):
        number(field)
    with pytest.raises(LayerError, match="malformed tar"):
        entries_of(tar(file("a", mtime=field.ljust(12, b"\0"))))


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_base_256_holds_every_64_bit_number(value: int) -> None:
    assert number(base256(value, 12)) == value


@given(st.binary(min_size=8, max_size=12))
def test_any_numeric_field_gives_a_number_or_value_error(field: bytes) -> None:
    with suppress(ValueError):
        assert -(1 << 63) <= number(field) < 1 << 63


def test_sizes_of_eight_gigabytes_and_more_are_read() -> None:
    for size in (8 << 30, base256(8 << 30, 12)):
        with pytest.raises(LayerError, match="truncated"):
            entries_of(tar(header("a", size=size)))
        reader = TarReader(chunked(tar(header("a", size=size))), what="test")
        found = next(iter(reader))
        assert isinstance(found, File)
        assert found.size == 8 << 30


def test_negative_size_is_malformed() -> None:
    for stream in (tar(header("a", size=-1)), tar(header("a", size=-512), file("b"))):
        with pytest.raises(LayerError, match="size"):
            entries_of(stream)


def test_file_may_have_an_empty_device_number() -> None:
    assert only_entry(tar(file("a", major=b"rubbish!", minor=b"\xff" * 8)))


# -- checksums --------------------------------------------------------------------------------
@pytest.mark.parametrize("checksum", [0, 1, b"        ", b"rubbish\0", bytes(8), b"\xff" * 8])
def test_wrong_checksum_is_an_error(checksum: int | bytes) -> None:
    with pytest.raises(LayerError, match="checksum"):
        entries_of(tar(file("a"), file("b", checksum=checksum)))


def test_other_spellings_of_a_checksum_are_accepted() -> None:
    total = sum(header("a", checksum=b"        "))
    for spelling in (b"%07o\0", b"%06o \0", b"%o\0", b" %o ", b"%08o"):
        assert path_of(tar(file("a", checksum=(spelling % total).ljust(8, b"\0")))) == b"a"


def test_checksum_over_signed_bytes_of_old_writers_is_accepted() -> None:
    name = b"\xe4\xf6\xfc"
    signed = sum(header(name, checksum=b"        ")) - 256 * len(name)
    assert path_of(tar(file(name, checksum=signed))) == name
    with pytest.raises(LayerError, match="checksum"):
        entries_of(tar(file(name, checksum=signed + 256)))


@given(st.integers(0, BLOCK - 1), st.integers(1, 255))
def test_any_changed_header_byte_fails_the_checksum(at: int, by: int) -> None:
    block = bytearray(header("name", mode=0o755, uid=5, mtime=MTIME))
    block[at] = (block[at] + by) % 256
    try:
        (found,) = entries_of(tar(bytes(block)))
    except LayerError:
        return
    # The checksum in another spelling, or a byte and its signed value: the fields stay equal.
    assert 148 <= at < 156
    assert found == only_entry(tar(header("name", mode=0o755, uid=5, mtime=MTIME)))
