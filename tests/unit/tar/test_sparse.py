"""GNU and PAX sparse files are expanded as holes."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stacker.errors import LayerError
from stacker.tar.entry import File
from stacker.tar.limits import Limits
from tests.support import tars
from tests.support.tars import BLOCK, Segments, base256, dir, file, padded, pax, tar  # noqa: A004
from tests.support.unpacking import Workspace, entries_of

Layout = Callable[[str, int, Segments], bytes]
FORMS: list[Layout] = [tars.sparse_old, tars.sparse_00, tars.sparse_01, tars.sparse_10]
each_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)


def expanded(size: int, segments: Segments) -> bytes:
    plain = bytearray(size)
    for at, data in segments:
        plain[at : at + len(data)] = data
    return bytes(plain)


def many(count: int) -> Segments:
    return [(at * 1000, b"%d" % at) for at in range(count)]


@each_form
@pytest.mark.parametrize(
    ("size", "segments"),
    [
        (0, []),
        (100_000, []),
        (10, [(0, b"0123456789")]),
        (100_000, [(0, b"x" * 512), (50_000, b"y" * 513)]),
        (100_000, [(99_999, b"z")]),
        (8192, [(100, b"a"), (101, b"b")]),
        (5000, [(0, b"a"), (5000, b"")]),
        (200_000, many(4)),
        (200_000, many(5)),
        (200_000, many(25)),
        (200_000, many(26)),
        (200_000, many(120)),
    ],
)
def test_every_sparse_format_is_expanded(
    workspace: Workspace, form: Layout, size: int, segments: Segments
) -> None:
    layer = workspace.unpack(form("s", size, segments), file("after", b"1"))
    assert layer.read("s") == expanded(size, segments)
    assert layer.read("after") == b"1"


@each_form
def test_holes_use_no_disk_blocks(workspace: Workspace, form: Layout) -> None:
    layer = workspace.unpack(form("s", 1 << 36, [(1 << 35, b"x" * 4096)]))
    assert layer.stat("s").st_size == 1 << 36
    assert layer.stat("s").st_blocks * 512 < 1 << 20
    with open(layer.path_of("s"), "rb") as file_:
        assert os.pread(file_.fileno(), 10, (1 << 35) + 4090) == b"x" * 6 + bytes(4)


@each_form
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_any_sparse_map_parses_to_its_segments(form: Layout, data: st.DataObject) -> None:
    at, segments = 0, []
    for gap, length in data.draw(
        st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 700)), max_size=40)
    ):
        segments.append((at + gap, b"x" * length))
        at += gap + length
    size = at + data.draw(st.integers(0, 5000))
    (found, after) = entries_of(tar(form("s", size, segments), file("after")))
    assert isinstance(found, File)
    assert (found.path, found.size) == (b"s", size)
    assert [tuple(each) for each in found.segments or ()] == [(at, len(d)) for at, d in segments]
    assert after.path == b"after"


@each_form
@pytest.mark.parametrize(
    ("size", "segments"),
    [
        (100, [(0, b"x" * 101)]),
        (100, [(99, b"xx")]),
        (100, [(10, b"xx"), (11, b"yy")]),
        (100, [(10, b"xx"), (0, b"yy")]),
        (100, [(101, b"")]),
        (1 << 62, [((1 << 63) - 1, b"x")]),
    ],
)
def test_sparse_map_with_overlap_or_outside_the_file_is_malformed(
    form: Layout, size: int, segments: Segments
) -> None:
    with pytest.raises(LayerError, match="malformed"):
        entries_of(tar(form("s", size, segments)))


def test_sparse_map_must_add_up_to_the_stored_bytes() -> None:
    for stored in (b"", b"x", b"x" * 3):
        listed = pax(("GNU.sparse.size", "100"), ("GNU.sparse.map", "10,2"))
        with pytest.raises(LayerError, match="malformed sparse map"):
            entries_of(tar(listed, file("s", stored)))


@pytest.mark.parametrize("size", [-1, base256(-(1 << 62), 12)[:12]])
def test_negative_size_is_malformed(size: int | bytes) -> None:
    block = bytearray(tars.sparse_old("s", 0, []))
    block[483:495] = tars.octal(size, 12)
    with pytest.raises(LayerError, match="malformed sparse map"):
        entries_of(tar(tars.resummed(bytes(block[:BLOCK]))))


@pytest.mark.parametrize("listed", ["1,", ",", "1,2,x", "-1,5", "1;2", "9" * 5000, "0x1,1"])
def test_sparse_map_without_numbers_is_malformed(listed: str) -> None:
    header = pax(("GNU.sparse.size", "100"), ("GNU.sparse.map", listed))
    with pytest.raises(LayerError, match="malformed"):
        entries_of(tar(header, file("s", b"x")))


@pytest.mark.parametrize(
    "text", [b"", b"1", b"x\n", b"-1\n", b"2\n0\n1\n", b"99999999999\n0\n1\n", b"9" * 5000 + b"\n"]
)
def test_sparse_map_that_exceeds_its_payload_is_malformed(text: bytes) -> None:
    header = pax(
        ("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "100")
    )
    for payload in (text, padded(text), padded(text) + b"1" * 1024):
        with pytest.raises(LayerError, match=r"malformed|truncated"):
            entries_of(tar(header, file("s", payload)))


def test_sparse_map_without_a_real_size_is_malformed() -> None:
    # A reader that used the map would look for the next header in the wrong place.
    header = pax(("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"))
    with pytest.raises(LayerError, match="want a size with it"):
        entries_of(tar(header, file("s", padded(b"1\n0\n5\n") + b"12345"), file("evil")))


@pytest.mark.parametrize(
    "version",
    [
        (),
        (("GNU.sparse.major", "2"), ("GNU.sparse.minor", "0"), ("GNU.sparse.map", "0,5")),
        (("GNU.sparse.minor", "1"), ("GNU.sparse.map", "0,5"), ("GNU.sparse.size", "10")),
    ],
)
def test_sparse_name_is_ignored_where_other_readers_see_a_plain_file(
    version: tuple[tuple[str, str], ...],
) -> None:
    header = pax(*version, ("GNU.sparse.name", "other"))
    (found,) = entries_of(tar(header, file("name", b"12345")))
    assert isinstance(found, File)
    assert (found.path, found.size, found.segments) == (b"name", 5, None)


def test_sparse_size_is_the_one_that_other_readers_use() -> None:
    sizes = ("GNU.sparse.realsize", "20"), ("GNU.sparse.size", "10")
    (found,) = entries_of(tar(pax(*sizes, ("GNU.sparse.map", "0,1")), file("s", b"x")))
    assert isinstance(found, File)
    assert found.size == 10


def test_sparse_header_applies_to_one_entry() -> None:
    leftover = pax(("GNU.sparse.size", "100"), ("GNU.sparse.map", "10,2"))
    (_, plain) = entries_of(tar(leftover, dir("d"), file("f", b"12345")))
    assert isinstance(plain, File)
    assert (plain.size, plain.segments) == (5, None)


def test_sparse_name_is_normalised_and_limited() -> None:
    (found,) = entries_of(tar(tars.sparse_10("../../a//b", 10, [])))
    assert found.path == b"a/b"
    with pytest.raises(LayerError, match="over a limit"):
        entries_of(tar(tars.sparse_10("a/" * 600 + "b", 10, [])))
    (found,) = entries_of(tar(tars.sparse_10("d/.wh.x", 10, [(0, b"1")])))
    assert found == tars_whiteout(b"d/x")


def tars_whiteout(path: bytes) -> object:
    from stacker.tar.entry import Whiteout

    return Whiteout(path)


@each_form
def test_sparse_map_over_the_limit_is_refused(form: Layout) -> None:
    stream = tar(form("s", 10_000_000, many(2000)))
    assert entries_of(stream, limits=Limits(pax_bytes=1 << 20))
    with pytest.raises(LayerError, match=r"over a limit|malformed sparse map"):
        entries_of(stream, limits=Limits(pax_bytes=8192))


@each_form
def test_holes_count_as_unpacked_bytes(workspace: Workspace, form: Layout) -> None:
    with pytest.raises(LayerError, match="over a limit"):
        workspace.unpack(form("s", 1 << 50, []))


def test_sparse_file_replaces_a_plain_one_and_vice_versa(workspace: Workspace) -> None:
    layer = workspace.unpack(
        file("s", b"plain"),
        tars.sparse_01("s", 10_000, [(5000, b"x")]),
        tars.sparse_old("s", 20_000, [(15_000, b"y")]),
        file("s", b"again"),
    )
    assert layer.read("s") == b"again"
