"""DESIGN section 4, *Tar dialects*: one parser, no disk."""

from __future__ import annotations

import os
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stacker.errors import LayerError, StackerError
from stacker.layer.entry import (
    Bookkeeping,
    Directory,
    File,
    HardLink,
    OpaqueWhiteout,
    Special,
    Symlink,
    Whiteout,
)
from stacker.layer.tar import TarReader, number
from tests import tars
from tests.tars import (
    BLOCK,
    END,
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
    pax_global,
    pax_header,
    record,
    resummed,
    symlink,
    tar,
    whiteout,
)
from tests.unit.layer.room import chunked, entries_of


def only(stream: bytes) -> object:
    (entry,) = entries_of(stream)
    return entry


def payloads(stream: bytes, chunk: int | None = None) -> list[bytes]:
    reader = TarReader(chunked(stream, chunk), what="test")
    return [b"".join(bytes(piece) for piece in reader.payload()) for _ in reader]


def path_of(stream: bytes) -> bytes:
    found = only(stream)
    assert isinstance(found, File | Directory | Symlink | HardLink | Special)
    return found.path


# -- kinds of entries -----------------------------------------------------------------------


def test_each_type_flag_becomes_its_type() -> None:
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
        File, Directory, Symlink, HardLink, Special, Special, Whiteout, OpaqueWhiteout, Bookkeeping,
    ]  # fmt: skip


@pytest.mark.parametrize("flag", [b"0", b"\0", b"7"])
def test_regular_old_and_contiguous_files_are_files(flag: bytes) -> None:
    assert isinstance(only(tar(file("a", b"1", flag=flag))), File)


def test_an_old_file_whose_name_ends_in_a_slash_is_a_directory() -> None:
    assert isinstance(only(tar(entry("a/", flag=b"\0", magic=V7))), Directory)


def test_gnu_s_directory_with_a_list_of_names_is_a_directory_and_the_list_is_passed_over() -> None:
    found = entries_of(tar(entry("d/", b"Yname\0\0" * 100, flag=b"D", magic=GNU), file("x")))
    assert [type(each) for each in found] == [Directory, File]


@pytest.mark.parametrize("flag", [b"V", b"M", b"N", b"A", b"8", b"\xff", b" "])
def test_an_unknown_type_is_refused(flag: bytes) -> None:
    with pytest.raises(LayerError, match="unknown entry type"):
        entries_of(tar(entry("a", flag=flag)))


@pytest.mark.parametrize("flag", [b"1", b"2", b"3", b"4", b"5", b"6"])
def test_header_only_types_carry_no_payload_whatever_their_size_says(flag: bytes) -> None:
    found = entries_of(tar(entry("a", flag=flag, link="t", size=12345, minor=1), file("x", b"1")))
    assert isinstance(found[1], File)
    found = entries_of(tar(pax(size="999"), entry("a", flag=flag, link="t", minor=1), file("x")))
    assert isinstance(found[1], File)


def test_devices_keep_their_numbers() -> None:
    found = only(tar(entry("sda", flag=b"4", major=8, minor=b"0000021")))
    assert isinstance(found, Special)
    assert (found.kind, found.device) == (stat.S_IFBLK, os.makedev(8, 17))


# -- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"a", b"n" * 100, b"\xff", b"a\nb", b" a ", "ü/ö".encode()])
def test_a_name_is_bytes(name: bytes) -> None:
    assert path_of(tar(file(name))) == name


@pytest.mark.parametrize("magic", [USTAR, b"ustar\0\0\0", b"ustar\x0001", b"ustar\0  "])
def test_ustar_s_prefix_comes_before_the_name_whatever_the_version_says(magic: bytes) -> None:
    assert path_of(tar(file("b", prefix=b"p/q", magic=magic))) == b"p/q/b"
    full = tar(file("n" * 100, prefix=b"p" * 155, magic=magic))
    assert path_of(full) == b"p" * 155 + b"/" + b"n" * 100


@pytest.mark.parametrize("magic", [GNU, V7, b"rubbish!"])
def test_what_stands_in_the_prefix_of_other_dialects_is_no_name(magic: bytes) -> None:
    assert path_of(tar(file("b", prefix=b"12345678901 0000000000 ", magic=magic))) == b"b"


def test_star_keeps_times_at_the_end_of_the_prefix() -> None:
    block = bytearray(header("b", prefix=b"p".ljust(131, b"\0") + b"07777777777\x0007777777777\0"))
    block[508:512] = b"tar\0"
    assert path_of(tar(resummed(bytes(block)))) == b"p/b"


def test_pax_path_and_linkpath_win_over_the_header() -> None:
    long = "d/" * 200 + "x"
    assert path_of(tar(pax(path=long) + file("short"))) == long.encode()
    found = only(tar(pax(path="l", linkpath="t" * 500) + symlink("x", "y")))
    assert isinstance(found, Symlink)
    assert (found.path, found.target) == (b"l", b"t" * 500)


def test_gnu_long_names_and_links_win_over_the_header_and_over_pax() -> None:
    found = only(tar(gnu_name("n" * 300), gnu_link("t" * 300), symlink("x", "y")))
    assert isinstance(found, Symlink)
    assert (found.path, found.target) == (b"n" * 300, b"t" * 300)
    both = tar(gnu_name("gnu"), pax(path="pax"), file("x"))
    assert path_of(both) == b"gnu"
    assert path_of(tar(pax(path="pax"), gnu_name("gnu"), file("x"))) == b"gnu"


def test_long_names_are_for_one_entry() -> None:
    found = entries_of(
        tar(gnu_name("long"), file("a"), file("b"), pax(path="pax"), file("c"), file("d"))
    )
    assert [each.path for each in found] == [b"long", b"b", b"pax", b"d"]


def test_a_gnu_name_ends_at_its_nul() -> None:
    assert path_of(tar(gnu_name(b"abc\0def"), file("x"))) == b"abc"


def test_a_pax_name_ends_at_a_nul() -> None:
    assert path_of(tar(pax(path=b"abc\0def"), file("x"))) == b"abc"


def test_a_sparse_name_ends_at_a_nul() -> None:
    stream = tar(pax(("GNU.sparse.name", b"a\0b"), ("GNU.sparse.size", "0")), file("x"))
    assert path_of(stream) == b"a"


def test_an_empty_pax_value_leaves_the_header_s() -> None:
    assert path_of(tar(pax(path="", uid="", mtime=""), file("x"))) == b"x"


# -- numbers --------------------------------------------------------------------------------


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
    [b"0000648\0", b"-1\0", b"+1\0", b"0x10\0", b"0o17\0", b"1_0\0", b"1 1\0", b"abc\0", "\u0661".encode(),
     base256(1 << 63, 12), base256(-(1 << 63) - 1, 12), base256(1 << 90, 12)],
)  # fmt: skip
def test_what_is_no_number_is_an_error(field: bytes) -> None:
    with pytest.raises(ValueError):
        number(field)
    with pytest.raises(LayerError, match="malformed tar"):
        entries_of(tar(file("a", mtime=field.ljust(12, b"\0"))))


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_base_256_holds_every_64_bit_number(value: int) -> None:
    assert number(base256(value, 12)) == value


@given(st.binary(min_size=8, max_size=12))
def test_a_numeric_field_is_a_number_or_a_value_error(field: bytes) -> None:
    try:
        assert -(1 << 63) <= number(field) < 1 << 63
    except ValueError:
        pass


def test_sizes_of_eight_gigabytes_and_more_are_read() -> None:
    for size in (8 << 30, base256(8 << 30, 12)):
        with pytest.raises(LayerError, match="truncated"):
            entries_of(tar(header("a", size=size)))
        reader = TarReader(chunked(tar(header("a", size=size))), what="test")
        found = next(iter(reader))
        assert isinstance(found, File)
        assert found.size == 8 << 30


def test_a_negative_size_is_malformed() -> None:
    for stream in (tar(header("a", size=-1)), tar(header("a", size=-512), file("b"))):
        with pytest.raises(LayerError, match="size"):
            entries_of(stream)


def test_an_empty_device_number_of_a_file_does_not_matter() -> None:
    assert only(tar(file("a", major=b"rubbish!", minor=b"\xff" * 8)))


# -- checksums ------------------------------------------------------------------------------


@pytest.mark.parametrize("checksum", [0, 1, b"        ", b"rubbish\0", bytes(8), b"\xff" * 8])
def test_a_wrong_checksum_is_an_error(checksum: int | bytes) -> None:
    with pytest.raises(LayerError, match="checksum"):
        entries_of(tar(file("a"), file("b", checksum=checksum)))


def test_other_spellings_of_a_checksum_are_accepted() -> None:
    total = sum(header("a", checksum=b"        "))
    for spelling in (b"%07o\0", b"%06o \0", b"%o\0", b" %o ", b"%08o"):
        assert path_of(tar(file("a", checksum=(spelling % total).ljust(8, b"\0")))) == b"a"


def test_the_checksum_over_signed_bytes_of_old_writers_is_accepted() -> None:
    name = b"\xe4\xf6\xfc"
    signed = sum(header(name, checksum=b"        ")) - 256 * len(name)
    assert path_of(tar(file(name, checksum=signed))) == name
    with pytest.raises(LayerError, match="checksum"):
        entries_of(tar(file(name, checksum=signed + 256)))


@given(st.integers(0, BLOCK - 1), st.integers(1, 255))
def test_every_changed_byte_of_a_header_is_noticed(at: int, by: int) -> None:
    block = bytearray(header("name", mode=0o755, uid=5, mtime=MTIME))
    block[at] = (block[at] + by) % 256
    try:
        (found,) = entries_of(tar(bytes(block)))
    except LayerError:
        return
    # The checksum's own spelling, or a byte and its signed reading: the fields are the same.
    assert 148 <= at < 156
    assert found == only(tar(header("name", mode=0o755, uid=5, mtime=MTIME)))


# -- PAX ------------------------------------------------------------------------------------


def test_pax_size_wins_over_the_header_and_says_where_the_next_header_stands() -> None:
    evil = file("evil", b"x" * 100)
    stream = tar(pax(size=str(len(evil))), file("a", evil, size=0), file("b", b"1"))
    assert [each.path for each in entries_of(stream)] == [b"a", b"b"]
    assert payloads(stream) == [evil, b"1"]
    stream = tar(pax(size="0"), file("a", size=len(evil)), evil)
    assert [each.path for each in entries_of(stream)] == [b"a", b"evil"]


def test_a_pax_size_is_for_one_entry() -> None:
    stream = tar(pax(size="1"), file("a", b"1", size=0), file("b", b"22"), file("c"))
    assert payloads(stream) == [b"1", b"22", b""]


@pytest.mark.parametrize("value", ["-1", "+1", " 1", "1 ", "0x1", "1e3", "1_0", "ten", "9" * 5000])
@pytest.mark.parametrize("key", ["size", "uid", "gid"])
def test_a_pax_number_that_is_none_is_malformed(key: str, value: str) -> None:
    with pytest.raises(LayerError, match=f"malformed PAX {key}"):
        entries_of(tar(pax(**{key: value}), file("a")))


def test_pax_ids_and_times_win_over_the_header() -> None:
    found = only(tar(pax(uid="3000000", gid="7", mtime="1.5", atime="2"), file("a")))
    assert isinstance(found, File)
    assert (found.meta.uid, found.meta.gid) == (3000000, 7)
    assert (found.meta.mtime, found.meta.atime) == (1_500_000_000, 2_000_000_000)


def test_of_a_repeated_record_the_last_one_counts() -> None:
    assert path_of(tar(pax(("path", "a"), ("path", "b")), file("x"))) == b"b"


def test_of_two_headers_in_a_row_the_last_one_counts_alone() -> None:
    found = only(tar(pax(path="a", uid="5"), pax(path="b"), file("x", uid=1)))
    assert isinstance(found, File)
    assert (found.path, found.meta.uid) == (b"b", 1)


def test_a_value_may_hold_newlines_equals_signs_and_what_looks_like_records() -> None:
    value = b"=\n13 path=evil\n\0\xff"
    found = only(tar(pax((b"SCHILY.xattr.user.a", value)), file("x")))
    assert isinstance(found, File)
    assert found.meta.xattrs == {b"user.a": value}


@pytest.mark.parametrize(
    "payload",
    [
        b"9 path=a",
        b"8 path=a\n",
        b"10 path=a\n",
        b"99 path=a\n",
        b"0 path=a\n",
        b"-9 path=a\n",
        b"+9 path=a\n",
        b"path=a\n",
        b" 9 path=a\n",
        b"9path=a\n\n",
        b"7 patha\n",
        b"5 =a\n",
        b"2 \n",
        b"3 \n\n",
        b"999999999999999999999999999 path=a\n",
        b"9 path=a\nrubbish",
        b"9 path=a\n\0\0x",
        b"\xff\xff\xff\xff",
    ],
)
def test_a_malformed_record_is_an_error(payload: bytes) -> None:
    with pytest.raises(LayerError, match="malformed PAX record"):
        entries_of(tar(pax_header(payload), file("x")))


def test_padding_that_counts_as_part_of_the_header_is_passed_over() -> None:
    assert path_of(tar(pax_header(record("path", "a") + bytes(100)), file("x"))) == b"a"


def test_an_empty_extended_header_says_nothing() -> None:
    assert path_of(tar(pax_header(b""), file("x"))) == b"x"


@given(st.binary(max_size=200))
def test_any_bytes_as_records_are_records_or_a_layer_error(payload: bytes) -> None:
    try:
        entries_of(tar(pax_header(payload), file("x")))
    except LayerError:
        pass


@given(st.dictionaries(st.text(min_size=1).filter(lambda t: "=" not in t), st.binary(), max_size=5))
def test_records_of_any_length_come_back(records: dict[str, bytes]) -> None:
    from stacker.layer.pax import records as parsed

    try:
        block = b"".join(record(key, value) for key, value in records.items())
    except UnicodeEncodeError:
        return
    assert dict(parsed(block, "test")) == {key.encode(): value for key, value in records.items()}


def test_a_global_header_is_a_default_for_owners_and_times() -> None:
    found = entries_of(
        tar(pax_global(uid="7", mtime="3.5"), file("a"), pax(uid="8"), file("b"), dir("c"))
    )
    owners = [each.meta.uid for each in found if isinstance(each, File | Directory)]
    times = [each.meta.mtime for each in found if isinstance(each, File | Directory)]
    assert owners == [7, 8, 7]
    assert times == [3_500_000_000] * 3


def test_a_later_global_header_adds_and_overrides() -> None:
    stream = tar(pax_global(uid="7", gid="1"), pax_global(uid="9"), file("a"))
    found = only(stream)
    assert isinstance(found, File)
    assert (found.meta.uid, found.meta.gid) == (9, 1)


@pytest.mark.parametrize(
    "key", ["path", "linkpath", "size", "GNU.sparse.name", "SCHILY.xattr.user.a"]
)
def test_a_global_header_cannot_name_or_measure_or_mark_files(key: str) -> None:
    stream = tar(
        pax_global(**{key: "5"}), symlink("l", "t"), file("a", b"1"), pax(uid="1"), file("b")
    )
    plain = tar(symlink("l", "t"), file("a", b"1"), pax(uid="1"), file("b"))
    assert entries_of(stream) == entries_of(plain)


def test_global_headers_take_no_memory_that_grows_with_their_number() -> None:
    stream = tar(
        *(pax_global(**{f"key{n}": "x" * 1000, "comment": "y" * 1000}) for n in range(500))
    )
    reader = TarReader(chunked(stream), what="test")
    assert not list(reader)
    assert not reader._globals


# -- the end --------------------------------------------------------------------------------


def test_a_layer_of_0_bytes_is_an_empty_tar() -> None:
    assert entries_of(b"") == []


@pytest.mark.parametrize("end", [b"", bytes(BLOCK), END, bytes(10240), END + bytes(100)])
def test_the_end_marker_may_be_long_short_or_missing(end: bytes) -> None:
    assert path_of(tar(file("a", b"1"), end=False) + end) == b"a"


def test_rubbish_before_the_end_marker_is_an_error() -> None:
    for rubbish in (b"x" * BLOCK, bytes(BLOCK) + b"x" * BLOCK, bytes(BLOCK) + file("b")):
        with pytest.raises(LayerError, match="malformed tar"):
            entries_of(tar(file("a"), end=False) + rubbish + END)


def test_a_zero_block_between_entries_is_an_error() -> None:
    with pytest.raises(LayerError, match="single zero block"):
        entries_of(tar(file("a"), bytes(BLOCK), file("b")))


def test_bytes_after_the_end_marker_are_read_and_kept_but_mean_nothing() -> None:
    kept: list[bytes] = []
    stream = tar(file("a", b"1")) + file("evil") + b"rubbish" * 1000
    chunks = chunked(stream, 512)
    reader = TarReader(chunks, what="test", keep=kept.append)
    assert [each.path for each in reader] == [b"a"]
    assert next(chunks, None) is None, "the digest covers them"
    assert b"".join(kept).endswith(b"rubbish" * 1000)


@pytest.mark.parametrize(
    "extended", [pax(path="a"), gnu_name("a"), gnu_link("a"), pax(path="a") * 2]
)
@pytest.mark.parametrize("end", [b"", END])
def test_an_extended_header_without_an_entry_is_an_error(extended: bytes, end: bytes) -> None:
    with pytest.raises(LayerError, match="extended header and then the end"):
        entries_of(tar(file("x"), extended, end=False) + end)


SMALL = [
    file("a", b"12345"),
    pax(path="p" * 150, mtime="1.5") + file("b", b"x" * 513),
    gnu_name("n" * 120) + symlink("c", "t"),
    dir("d"),
    tars.sparse_10("s", 4096, [(0, b"1" * 10), (2000, b"2" * 10)]),
    tars.sparse_old("o", 9000, [(at * 1000, b"x") for at in range(7)]),
    whiteout("w", size=3) + b"abc".ljust(BLOCK, b"\0"),
    hardlink("h", "a"),
]


def test_every_proper_prefix_is_an_error_or_at_an_entry_s_end_the_same_entries() -> None:
    stream = tar(*SMALL)
    whole = entries_of(stream)
    boundaries, at = {0: 0}, 0
    for count, part in enumerate(SMALL, 1):
        at += len(part)
        boundaries[at] = boundaries[at + BLOCK] = count
    for cut in range(len(stream)):
        if cut in boundaries:
            assert entries_of(stream[:cut]) == whole[: boundaries[cut]]
            continue
        with pytest.raises(LayerError, match=r"truncated|extended header and then the end"):
            entries_of(stream[:cut])


@given(st.lists(st.sampled_from(SMALL), max_size=4), st.integers(1, 1500))
@settings(deadline=None)
def test_the_size_of_the_chunks_does_not_matter(parts: list[bytes], chunk: int) -> None:
    stream = tar(*parts)
    assert entries_of(stream, chunk=chunk) == entries_of(stream)
    assert payloads(stream, chunk) == payloads(stream)


def test_empty_chunks_are_no_end() -> None:
    stream = tar(file("a", b"x" * 1000), file("b"))
    chunks = (piece for part in chunked(stream, 100) for piece in (b"", part, b""))
    assert [each.path for each in TarReader(chunks, what="test")] == [b"a", b"b"]


@pytest.mark.parametrize("after", [0, BLOCK, 2 * BLOCK, 3 * BLOCK, 4 * BLOCK, 5 * BLOCK])
def test_an_error_of_the_stream_is_never_taken_for_its_end(after: int) -> None:
    # Where a stream may end, reading on and being refused must not look like the end: that
    # would let a stream that is over a limit, and never checked, pass for a whole one.
    stream = tar(file("a", b"1"), end=False) + bytes(10 * BLOCK)

    def chunks() -> st.SearchStrategy[bytes]:
        yield from chunked(stream[:after], BLOCK)  # type: ignore[misc]
        raise LayerError("over a limit")

    with pytest.raises(LayerError, match="over a limit"):
        list(TarReader(chunks(), what="test"))  # type: ignore[arg-type]


# -- fuzz -----------------------------------------------------------------------------------

FIELDS = [(0, 100), (100, 108), (108, 116), (116, 124), (124, 136), (136, 148), (156, 157),
          (157, 257), (257, 265), (329, 337), (337, 345), (345, 500), (386, 482), (482, 495),
          (500, 512)]  # fmt: skip
FLAGS = st.sampled_from([bytes([n]) for n in b"01234567xgLKSDVM\0\xff"])
VALUES = st.one_of(
    st.binary(max_size=12),
    st.integers(-(1 << 70), 1 << 70).map(lambda n: base256(n, 12)),
    st.sampled_from([b"77777777777\0", b"00000000000\0", b"0000000001\0", b"\xff" * 12, b""]),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """An archive with fields of its headers replaced, checksums made right again."""
    parts = [
        bytearray(part) for part in draw(st.lists(st.sampled_from(SMALL), min_size=1, max_size=5))
    ]
    for part in parts:
        for _ in range(draw(st.integers(0, 3))):
            at = draw(st.integers(0, len(part) // BLOCK - 1)) * BLOCK
            if draw(st.booleans()):
                start, stop = draw(st.sampled_from(FIELDS))
                value = draw(FLAGS if start == 156 else VALUES)[: stop - start]
                part[at + start : at + start + len(value)] = value
                part[at : at + BLOCK] = resummed(bytes(part[at : at + BLOCK]))
            else:
                spot = at + draw(st.integers(0, BLOCK - 1))
                part[spot] = draw(st.integers(0, 255))
    stream = tar(*(bytes(part) for part in parts), end=draw(st.booleans()))
    return stream[: draw(st.integers(0, len(stream)))] if draw(st.booleans()) else stream


def consumed(stream: bytes) -> tuple[int, int]:
    """Read a stream to its end or its error; give the entries and the bytes that were kept."""
    kept = 0

    def keep(data: bytes) -> None:
        nonlocal kept
        kept += len(data)

    reader = TarReader(chunked(stream, 700), what="test", keep=keep)
    try:
        for _ in reader:
            for piece in reader.payload():
                assert len(piece) <= 700
    except StackerError:
        pass
    return reader.count, kept


@given(mutated())
@settings(max_examples=600, deadline=None)
def test_a_mutated_archive_is_read_or_a_layer_error_and_never_anything_else(stream: bytes) -> None:
    count, kept = consumed(stream)
    assert count <= len(stream) // BLOCK
    assert kept <= len(stream)


@given(st.binary(max_size=3000))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_read_or_a_layer_error(stream: bytes) -> None:
    consumed(stream)


@given(mutated())
@settings(max_examples=200, deadline=None)
def test_the_kept_bytes_of_any_archive_that_is_read_parse_to_the_same_entries(
    stream: bytes,
) -> None:
    kept: list[bytes] = []
    try:
        found = list(TarReader(chunked(stream), what="test", keep=kept.append))
    except LayerError:
        return
    again = TarReader(chunked(b"".join(kept)), what="test", elided=True)
    assert list(again) == found
