"""PAX extended headers, for one entry and global ones."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stacker.errors import LayerError
from stacker.tar.entry import (
    Directory,
    File,
)
from stacker.tar.reader import TarReader
from tests.support import tars
from tests.support.tars import (
    dir,  # noqa: A004 - the word for it
    file,
    pax,
    pax_global,
    pax_header,
    record,
    symlink,
    tar,
)
from tests.support.unpacking import chunked, entries_of, only_entry, path_of, payloads


def test_pax_size_overrides_the_header_and_locates_the_next_one() -> None:
    evil = file("evil", b"x" * 100)
    stream = tar(pax(size=str(len(evil))), file("a", evil, size=0), file("b", b"1"))
    assert [each.path for each in entries_of(stream)] == [b"a", b"b"]
    assert payloads(stream) == [evil, b"1"]
    stream = tar(pax(size="0"), file("a", size=len(evil)), evil)
    assert [each.path for each in entries_of(stream)] == [b"a", b"evil"]


def test_pax_size_applies_to_one_entry() -> None:
    stream = tar(pax(size="1"), file("a", b"1", size=0), file("b", b"22"), file("c"))
    assert payloads(stream) == [b"1", b"22", b""]


@pytest.mark.parametrize("value", ["-1", "+1", " 1", "1 ", "0x1", "1e3", "1_0", "ten", "9" * 5000])
@pytest.mark.parametrize("key", ["size", "uid", "gid"])
def test_malformed_pax_number_is_an_error(key: str, value: str) -> None:
    with pytest.raises(LayerError, match=f"malformed PAX {key}"):
        entries_of(tar(pax(**{key: value}), file("a")))


def test_pax_ids_and_times_override_the_header() -> None:
    found = only_entry(tar(pax(uid="3000000", gid="7", mtime="1.5", atime="2"), file("a")))
    assert isinstance(found, File)
    assert (found.meta.uid, found.meta.gid) == (3000000, 7)
    assert (found.meta.mtime, found.meta.atime) == (1_500_000_000, 2_000_000_000)


def test_last_of_repeated_records_applies() -> None:
    assert path_of(tar(pax(("path", "a"), ("path", "b")), file("x"))) == b"b"


def test_last_of_consecutive_extended_headers_applies_alone() -> None:
    found = only_entry(tar(pax(path="a", uid="5"), pax(path="b"), file("x", uid=1)))
    assert isinstance(found, File)
    assert (found.path, found.meta.uid) == (b"b", 1)


def test_pax_value_may_contain_newlines_and_record_like_text() -> None:
    value = b"=\n13 path=evil\n\0\xff"
    found = only_entry(tar(pax((b"SCHILY.xattr.user.a", value)), file("x")))
    assert isinstance(found, File)
    assert found.meta.xattrs == {b"user.a": value}


@pytest.mark.parametrize(
    "payload",
    [
        b"9 path=a",
        b"8 path=a\n",
        b"11 path=a\n",
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
def test_malformed_record_is_an_error(payload: bytes) -> None:
    with pytest.raises(LayerError, match="malformed PAX record"):
        entries_of(tar(pax_header(payload), file("x")))


def test_padding_inside_a_pax_header_is_skipped() -> None:
    assert path_of(tar(pax_header(record("path", "a") + bytes(100)), file("x"))) == b"a"


def test_empty_extended_header_changes_nothing() -> None:
    assert path_of(tar(pax_header(b""), file("x"))) == b"x"


@given(st.binary(max_size=200))
def test_any_record_bytes_parse_or_raise_layer_error(payload: bytes) -> None:
    with suppress(LayerError):
        entries_of(tar(pax_header(payload), file("x")))


@given(st.dictionaries(st.text(min_size=1).filter(lambda t: "=" not in t), st.binary(), max_size=5))
def test_records_of_any_length_parse(records: dict[str, bytes]) -> None:
    from stacker.tar.pax import records as parsed

    try:
        block = b"".join(record(key, value) for key, value in records.items())
    except UnicodeEncodeError:
        return
    assert dict(parsed(block, "test")) == {key.encode(): value for key, value in records.items()}


def test_global_header_sets_default_owners_and_times() -> None:
    found = entries_of(
        tar(pax_global(uid="7", mtime="3.5"), file("a"), pax(uid="8"), file("b"), dir("c"))
    )
    owners = [each.meta.uid for each in found if isinstance(each, File | Directory)]
    times = [each.meta.mtime for each in found if isinstance(each, File | Directory)]
    assert owners == [7, 8, 7]
    assert times == [3_500_000_000] * 3


def test_later_global_header_adds_and_overrides() -> None:
    stream = tar(pax_global(uid="7", gid="1"), pax_global(uid="9"), file("a"))
    found = only_entry(stream)
    assert isinstance(found, File)
    assert (found.meta.uid, found.meta.gid) == (9, 1)


@pytest.mark.parametrize(
    "key", ["path", "linkpath", "size", "GNU.sparse.name", "SCHILY.xattr.user.a"]
)
def test_global_header_cannot_set_names_sizes_or_xattrs(key: str) -> None:
    stream = tar(
        pax_global(**{key: "5"}), symlink("l", "t"), file("a", b"1"), pax(uid="1"), file("b")
    )
    plain = tar(symlink("l", "t"), file("a", b"1"), pax(uid="1"), file("b"))
    assert entries_of(stream) == entries_of(plain)


def test_memory_does_not_grow_with_the_number_of_global_headers() -> None:
    stream = tar(
        *(pax_global(**{f"key{n}": "x" * 1000, "comment": "y" * 1000}) for n in range(500))
    )
    reader = TarReader(chunked(stream), what="test")
    assert not list(reader)
    assert not reader._globals


@pytest.mark.parametrize("extended", [pax(path="other"), tars.gnu_name("other")])
def test_global_header_between_extended_header_and_entry_is_malformed(
    extended: bytes,
) -> None:
    # Go drops the extended header and libarchive keeps it, so readers would see different names.
    with pytest.raises(LayerError, match="global header after an extended one"):
        entries_of(tar(extended, tars.pax_global(comment="x"), file("name")))
    assert entries_of(tar(tars.pax_global(comment="x"), extended, file("name")))[0].path == b"other"
