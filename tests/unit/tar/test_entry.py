"""Paths and whiteout names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stacker.errors import LayerError
from stacker.tar.entry import (
    AufsFile,
    OpaqueWhiteout,
    Whiteout,
    normalised,
    parse_whiteout,
    printable,
)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (b"a", b"a"),
        (b"a/b", b"a/b"),
        (b"a/", b"a"),
        (b"a///", b"a"),
        (b"a//b", b"a/b"),
        (b"./a", b"a"),
        (b"././a", b"a"),
        (b".//a", b"a"),
        (b"./", b""),
        (b".", b""),
        (b"", b""),
        (b"/", b""),
        (b"//", b""),
        (b"/a", b"a"),
        (b"//a//b//", b"a/b"),
        (b"..", b""),
        (b"../../etc", b"etc"),
        (b"a/../../b", b"b"),
        (b"a/..", b""),
        (b"a/./b/.", b"a/b"),
        (b"/../a", b"a"),
        (b".a", b".a"),
        (b"...", b"..."),
        (b"a/...", b"a/..."),
        (b"..a/b..", b"..a/b.."),
        (b"a\n/\xff", b"a\n/\xff"),
    ],
)
def test_dot_dot_and_absolute_names_stay_inside_the_root(name: bytes, path: bytes) -> None:
    assert normalised(name) == path


@given(st.lists(st.sampled_from([b"", b".", b"..", b"a", b".b", b"c.", b"..."])).map(b"/".join))
def test_normalised_path_has_no_dot_components_and_is_stable(name: bytes) -> None:
    path = normalised(name)
    assert path == b"" or not {b"", b".", b".."} & set(path.split(b"/"))
    assert normalised(path) == path
    walked: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            walked = walked[:-1]
        elif part not in (b"", b"."):
            walked.append(part)
    assert path == b"/".join(walked)


@pytest.mark.parametrize("name", [b".wh.", b".wh..", b".wh...", b"d/.wh.", b"d/.wh..", b"d/.wh..."])
def test_bare_whiteout_prefix_is_malformed(name: bytes) -> None:
    with pytest.raises(LayerError, match="malformed whiteout"):
        parse_whiteout(name)


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        (b".wh.x", Whiteout(b"x")),
        (b"d/.wh.x", Whiteout(b"d/x")),
        (b".wh.x\n\xff", Whiteout(b"x\n\xff")),
        (b".wh....", Whiteout(b"...")),
        (b".wh..opq", Whiteout(b".opq")),
        (b".wh..wh", Whiteout(b".wh")),
        (b".wh.a.wh.b", Whiteout(b"a.wh.b")),
        (b".wh..wh..opq", OpaqueWhiteout(b"")),
        (b"d/e/.wh..wh..opq", OpaqueWhiteout(b"d/e")),
        (b"x.wh.y", None),
        (b"d/x.wh.", None),
        (b".wha", None),
    ],
)
def test_whiteout_names_give_whiteout_entries(name: bytes, meaning: object) -> None:
    assert parse_whiteout(name) == meaning


@pytest.mark.parametrize(
    "name",
    [b".wh..wh.aufs", b".wh..wh.plnk", b"d/.wh..wh.orph", b".wh..wh.plnk/1.2", b".wh..wh..opq/x"],
)
def test_other_names_with_a_doubled_prefix_are_aufs_files(name: bytes) -> None:
    assert parse_whiteout(name) == AufsFile(name)


def test_path_below_a_whiteout_name_is_malformed() -> None:
    with pytest.raises(LayerError, match="malformed whiteout"):
        parse_whiteout(b"d/.wh.x/y")


@given(st.binary())
def test_printable_name_is_one_line_without_control_characters(name: bytes) -> None:
    assert printable(name).isprintable()


def test_readable_name_is_printed_unchanged() -> None:
    assert printable("usr/größe".encode()) == "usr/größe"
    assert printable(b"a\nb\xff\x1b[2J") == "a\\nb\\xff\\x1b[2J"
