"""Whiteouts, from names in a stream to marks on disk (docs/rules.md, Whiteouts)."""

from __future__ import annotations

import itertools

import pytest

from stacker.errors import LayerError
from stacker.layer.whiteout_format import WhiteoutFormat
from tests.support.tars import (
    Text,
    dir,  # noqa: A004 - the word for it
    entry,
    file,
    hardlink,
    opaque,
    symlink,
    tar,
    whiteout,
)
from tests.support.unpacking import Workspace, needs_root


@pytest.mark.parametrize("order", [0, 1])
def test_whiteout_before_or_after_its_file_keeps_the_file(workspace: Workspace, order: int) -> None:
    parts = [file("x", b"mine"), whiteout("x")]
    layer = workspace.unpack(*(parts if order else parts[::-1]))
    assert layer.read("x") == b"mine"
    assert layer.record.whiteouts == 0


@pytest.mark.parametrize("parts", list(itertools.permutations(["whiteout", "dir", "new"])))
def test_whiteout_and_directory_of_one_name_make_it_opaque(
    workspace: Workspace, parts: tuple[str, ...]
) -> None:
    made = {"whiteout": whiteout("d"), "dir": dir("d/"), "new": file("d/new")}
    layer = workspace.unpack(*(made[part] for part in parts))
    assert layer.is_opaque("d")
    assert layer.names() == {b"d", b"d/new"}
    assert layer.record.opaque == {b"d"}


@pytest.mark.parametrize("order", [0, 1])
def test_whiteout_and_path_below_it_make_the_directory_opaque(
    workspace: Workspace, order: int
) -> None:
    parts = [whiteout("d"), file("d/e/new")]
    layer = workspace.unpack(*(parts if order else parts[::-1]))
    assert layer.is_opaque("d")
    assert b"d" not in layer.record.implied, "the lower d is gone, and its attributes with it"
    assert layer.record.implied == {b"", b"d/e"}


@pytest.mark.parametrize("first", [True, False])
def test_opaque_directory_has_no_whiteouts(workspace: Workspace, *, first: bool) -> None:
    parts = [opaque("d"), whiteout("d/x"), whiteout("d/e/y"), file("d/e/z"), dir("d")]
    layer = workspace.unpack(*(parts if first else parts[::-1]))
    assert layer.is_opaque("d")
    assert not layer.is_opaque("d/e")
    assert layer.names() == {b"d", b"d/e", b"d/e/z"}


@pytest.mark.parametrize("first", [True, False])
def test_opaque_whiteout_may_be_first_or_last(workspace: Workspace, *, first: bool) -> None:
    parts = [opaque("d"), dir("d"), file("d/x", b"1")]
    layer = workspace.unpack(*(parts if first else [*parts[1:], parts[0]]))
    assert layer.is_opaque("d")
    assert layer.read("d/x") == b"1"


def test_root_can_be_opaque(workspace: Workspace) -> None:
    layer = workspace.unpack(file("x"), opaque(), whiteout("y"))
    assert layer.is_opaque()
    assert layer.names() == {b"x"}
    assert layer.record.opaque == {b""}


def test_aufs_files_are_skipped(workspace: Workspace) -> None:
    layer = workspace.unpack(
        entry(".wh..wh.aufs", b"some bytes"),
        dir(".wh..wh.plnk/"),
        file(".wh..wh.plnk/1.2", b"x" * 1000),
        file("a"),
    )
    assert layer.names() == {b"a"}


@pytest.mark.parametrize("flag", [bytes([n]) for n in b"01234567\0"])
def test_whiteout_may_have_any_type_flag(workspace: Workspace, flag: bytes) -> None:
    layer = workspace.unpack(
        whiteout("d/x", flag=flag, link="nowhere", major=0, minor=0),
        opaque("e", flag=flag, link="d"),
    )
    assert layer.is_whiteout("d/x")
    assert layer.is_opaque("e")


def test_payload_of_a_whiteout_is_kept_in_the_skeleton(workspace: Workspace) -> None:
    layer = workspace.unpack(whiteout("x", size=1000) + bytes(range(256)) * 4, file("y", b"1"))
    assert layer.is_whiteout("x")
    assert layer.read("y") == b"1"


def test_missing_parents_of_a_whiteout_become_implied_directories(
    workspace: Workspace,
) -> None:
    layer = workspace.unpack(whiteout("a/b/x"))
    assert layer.is_whiteout("a/b/x")
    assert layer.record.implied == {b"", b"a", b"a/b"}
    assert layer.record.whiteouts == 1
    assert layer.mode("a/b") == 0o755


@pytest.mark.parametrize("name", [b"x\xff", b"a\nb", b"n" * 251, b"...", "ü".encode()])
def test_every_name_can_be_whited_out(workspace: Workspace, name: bytes) -> None:
    assert workspace.unpack(whiteout(name)).names() == {name}


def test_whiteout_below_a_hidden_directory_is_redundant(workspace: Workspace) -> None:
    layer = workspace.unpack(whiteout("d/x"), whiteout("d"), whiteout("d/e/f"))
    assert not layer.record.stranded
    assert layer.names() == {b"d"}
    assert layer.is_whiteout("d")


def test_whiteout_does_not_follow_its_own_layer_s_symlinks(workspace: Workspace) -> None:
    layer = workspace.unpack(
        dir("d"), symlink("l", "d"), whiteout("l/x"), symlink("m", "d"), opaque("m")
    )
    assert layer.names() == {b"d", b"l", b"m"}
    assert layer.target("l") == b"d"
    assert layer.record.stranded == (b"l/x",)
    assert layer.record.stranded_opaque == (b"m",)
    assert not layer.is_opaque("d")


def test_whiteout_below_a_file_is_stranded(workspace: Workspace) -> None:
    layer = workspace.unpack(file("f", b"1"), whiteout("f/x"), opaque("f/d"))
    assert layer.read("f") == b"1"
    assert layer.record.stranded == (b"f/x",)
    assert layer.record.stranded_opaque == (b"f/d",)


def test_whiteout_with_the_name_of_a_symlink_keeps_the_symlink(workspace: Workspace) -> None:
    assert workspace.unpack(whiteout("l"), symlink("l", "t")).target("l") == b"t"


def test_whiteout_beside_a_deferred_link_keeps_the_link(
    workspace: Workspace,
) -> None:
    layer = workspace.unpack(whiteout("h"), hardlink("h", "lower"))
    assert [link.path for link in layer.record.deferred_links] == [b"h"]


def test_repeated_whiteouts_count_once(workspace: Workspace) -> None:
    layer = workspace.unpack(whiteout("x"), whiteout("x"), opaque("d"), opaque("d"))
    assert layer.record.whiteouts == 1
    assert layer.names() == {b"x", b"d"}


@needs_root
@pytest.mark.parametrize("whiteout_format", list(WhiteoutFormat))
def test_whiteouts_are_written_in_the_requested_format(
    workspace: Workspace, whiteout_format: WhiteoutFormat
) -> None:
    layer = workspace.unpack(opaque("d"), whiteout("x"), whiteout_format=whiteout_format)
    assert layer.record.whiteout_format is whiteout_format
    assert layer.xattrs("d") == {(whiteout_format.prefix + b"opaque").decode()}
    assert layer.is_whiteout("x")


def test_record_tells_whether_a_bind_mount_is_enough(workspace: Workspace) -> None:
    assert workspace.unpack(file("a"), dir("d")).record.is_plain
    assert not workspace.unpack(whiteout("a")).record.is_plain
    assert not workspace.unpack(opaque("a")).record.is_plain


@pytest.mark.parametrize("name", ["", ".", ".."])
@pytest.mark.parametrize("above", ["", "d/"])
def test_bare_whiteout_prefix_is_refused_at_once(
    workspace: Workspace, above: str, name: Text
) -> None:
    with pytest.raises(LayerError, match="malformed whiteout"):
        workspace.unpack(tar(file("d/x"), file(f"{above}.wh.{name!s}"), end=False))
