"""Hard links in a layer (docs/rules.md, Links)."""

from __future__ import annotations

import os

import pytest

from stacker.errors import LayerError
from stacker.tar.entry import HardLink
from tests.support.tars import (
    dir,  # noqa: A004 - the word for it
    fifo,
    file,
    hardlink,
    opaque,
    pax,
    symlink,
)
from tests.support.unpacking import Unpacked, Workspace


def same(layer: Unpacked, *paths: str) -> bool:
    return len({layer.stat(path).st_ino for path in paths}) == 1


def test_hard_link_is_the_same_file(workspace: Workspace) -> None:
    layer = workspace.unpack(file("a", b"1", mode=0o640), hardlink("d/b", "a", mode=0o777))
    assert same(layer, "a", "d/b")
    assert layer.mode("a") == 0o640, "a link's header repeats its target's and says nothing new"


def test_hard_link_to_a_symlink_links_the_symlink(workspace: Workspace) -> None:
    layer = workspace.unpack(file("t", b"1"), symlink("l", "t"), hardlink("h", "l"))
    assert layer.target("h") == b"t"
    assert same(layer, "l", "h")
    assert layer.stat("t").st_nlink == 1


def test_hard_link_to_a_fifo_links_the_fifo(workspace: Workspace) -> None:
    assert same(workspace.unpack(fifo("p"), hardlink("h", "p")), "p", "h")


@pytest.mark.parametrize("target", ["/d/a", "./d/a", "../d/a", "l/a", "/l/../l/a", "abs/a"])
def test_target_resolves_inside_the_root(workspace: Workspace, target: str) -> None:
    layer = workspace.unpack(
        file("d/a", b"1"), symlink("l", "d"), symlink("abs", "/d"), hardlink("h", target)
    )
    assert same(layer, "d/a", "h")


def test_link_may_precede_its_target(workspace: Workspace) -> None:
    layer = workspace.unpack(hardlink("h", "a"), hardlink("i", "d/b"), file("a", b"1"), file("d/b"))
    assert same(layer, "a", "h")
    assert same(layer, "d/b", "i")
    assert not layer.record.deferred_links


def test_link_below_a_symlink_may_precede_its_target(workspace: Workspace) -> None:
    layer = workspace.unpack(
        dir("d"), symlink("l", "d"), hardlink("l/h", "l/a"), file("d/a"), hardlink("l/i", "l/h")
    )
    assert same(layer, "d/a", "d/h", "d/i")


def test_target_in_a_lower_layer_is_deferred(workspace: Workspace) -> None:
    layer = workspace.unpack(hardlink("h", "lower/a"), hardlink("i", "h"), file("x"))
    assert layer.record.deferred_links == (HardLink(b"h", b"lower/a"), HardLink(b"i", b"h"))
    assert layer.names() == {b"x"}


@pytest.mark.parametrize("order", [0, 1])
def test_chain_of_twenty_thousand_links_in_reverse_takes_linear_work(
    workspace: Workspace, order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, tries = 20_000, 0
    linked, looked = os.link, os.lstat

    def counting_link(*arguments: object, **options: object) -> None:
        nonlocal tries
        tries += 1
        linked(*arguments, **options)  # type: ignore[arg-type]

    def counting_look(*arguments: object, **options: object) -> os.stat_result:
        nonlocal tries
        tries += 1
        return looked(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", counting_link)
    monkeypatch.setattr(os, "lstat", counting_look)
    chain = [hardlink(f"l{n}", f"l{n + 1}") for n in range(count)][:: -1 if order else 1]
    layer = workspace.unpack(*chain, file(f"l{count}", b"1"))
    assert tries < 8 * count
    assert layer.stat("l0").st_nlink == count + 1


def test_link_to_itself_keeps_the_file(workspace: Workspace) -> None:
    layer = workspace.unpack(
        file("a", b"1"), hardlink("a", "a"), hardlink("./a", "/a"), dir("d"), symlink("l", "."),
        hardlink("l/a", "a"),
    )  # fmt: skip
    assert layer.read("a") == b"1"
    assert not layer.record.replacements


@pytest.mark.parametrize("target", ["a", "./a", "/a", "d/../a"])
def test_link_to_itself_without_a_file_is_deferred(workspace: Workspace, target: str) -> None:
    layer = workspace.unpack(hardlink("a", target))
    assert not layer.exists("a")
    assert layer.record.deferred_links == (HardLink(b"a", b"a"),)


@pytest.mark.parametrize("later", [file("a", b"1"), dir("a"), file("a/b")])
def test_link_to_itself_before_its_file_changes_nothing(workspace: Workspace, later: bytes) -> None:
    layer = workspace.unpack(hardlink("a", "a"), later)
    assert layer.exists("a")
    assert not layer.record.deferred_links


def test_cyclic_links_terminate(workspace: Workspace) -> None:
    layer = workspace.unpack(hardlink("a", "b"), hardlink("b", "c"), hardlink("c", "a"))
    assert {link.path for link in layer.record.deferred_links} == {b"a", b"b", b"c"}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("target", ["d", "/", "d/..", "l/e"])
def test_link_to_a_directory_is_malformed_in_either_order(
    workspace: Workspace, target: str, *, first: bool
) -> None:
    parts = [dir("d"), dir("d/e"), symlink("l", "d")]
    with pytest.raises(LayerError, match="malformed hard link"):
        workspace.unpack(
            *(parts if first else ()), hardlink("h", target), *(() if first else parts)
        )


def test_link_to_a_directory_that_is_only_implied_is_deferred(workspace: Workspace) -> None:
    layer = workspace.unpack(
        file("d/x"), hardlink("h", "d")
    )  # in a lower layer, d may be a symbolic link
    assert layer.record.deferred_links == (HardLink(b"h", b"d"),)


def test_link_to_something_below_itself_is_malformed(workspace: Workspace) -> None:
    with pytest.raises(LayerError, match="below the link itself"):
        workspace.unpack(dir("d"), file("d/f"), hardlink("d", "d/f"))


def test_link_to_a_later_replaced_file_keeps_the_old_contents(workspace: Workspace) -> None:
    layer = workspace.unpack(file("a", b"old"), hardlink("h", "a"), file("a", b"new"))
    assert (layer.read("h"), layer.read("a")) == (b"old", b"new")


def test_pending_link_gets_the_last_contents(workspace: Workspace) -> None:
    layer = workspace.unpack(hardlink("h", "a"), file("a", b"old"), file("a", b"new"))
    assert layer.read("h") == b"new"


@pytest.mark.parametrize(
    "later", [file("h", b"2"), symlink("h", "x"), dir("h"), hardlink("h", "b"), fifo("h")]
)
def test_later_entry_replaces_a_pending_link(workspace: Workspace, later: bytes) -> None:
    layer = workspace.unpack(file("b"), hardlink("h", "a"), later, file("a", b"1"))
    assert layer.exists("h")
    assert not same(layer, "a", "h")
    assert not layer.record.deferred_links


def test_pending_link_is_removed_with_its_directory(workspace: Workspace) -> None:
    layer = workspace.unpack(hardlink("d/e/h", "a"), file("d", b"2"), file("a", b"1"))
    assert layer.names() == {b"d", b"a"}
    assert layer.stat("a").st_nlink == 1


def test_link_replaces_an_earlier_entry(workspace: Workspace) -> None:
    layer = workspace.unpack(
        file("a", b"1"), file("f", b"2"), hardlink("f", "a"), file("d/x"), hardlink("d", "a")
    )
    assert same(layer, "a", "f", "d")


def test_path_below_a_pending_link_is_malformed(workspace: Workspace) -> None:
    with pytest.raises(LayerError, match="below a hard link"):
        workspace.unpack(hardlink("h", "lower"), file("h/x"))


def test_path_below_a_link_to_a_symlink_follows_it(workspace: Workspace) -> None:
    layer = workspace.unpack(dir("d"), symlink("l", "d"), hardlink("h", "l"), file("h/x", b"1"))
    assert layer.read("d/x") == b"1"


def test_link_has_no_payload_whatever_its_size(workspace: Workspace) -> None:
    layer = workspace.unpack(
        file("a", b"1"),
        hardlink("h", "a", size=1 << 20),
        pax(size="9"),
        hardlink("i", "a"),
        file("b"),
    )
    assert same(layer, "a", "h", "i")
    assert layer.exists("b")


def test_link_beside_an_opaque_directory_is_made(workspace: Workspace) -> None:
    assert same(workspace.unpack(opaque("d"), hardlink("d/h", "d/a"), file("d/a")), "d/a", "d/h")


def test_links_may_have_any_name(workspace: Workspace) -> None:
    above = "/".join(["n" * 200] * 30)
    layer = workspace.unpack(
        hardlink(b"\xff\n", f"{above}/a"), file(f"{above}/a", b"1"), hardlink("h", b"\xff\n")
    )
    assert same(layer, "h", os.fsdecode(b"\xff\n"))
    assert layer.stat("h").st_nlink == 3
