"""Applying entries: docs/rules.md, Containment and Overlay marks, and replaced entries."""

from __future__ import annotations

import os
import stat

import pytest

from stacker.errors import LayerError
from stacker.layer.whiteout_format import WhiteoutFormat
from tests.support.tars import (
    MTIME,
    Text,
    block,
    char,
    dir,  # noqa: A004 - the word for it
    fifo,
    file,
    hardlink,
    symlink,
)
from tests.support.unpacking import IS_ROOT, Workspace, needs_root


# -- containment ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name",
    ["../../secret", "/secret", "a/../../secret", "../workspace/secret", "./../secret", "//secret"],
)
def test_dot_dot_and_absolute_names_stay_inside_the_root(workspace: Workspace, name: str) -> None:
    layer = workspace.unpack(file(name, b"evil"))
    assert layer.read(name.rpartition("..")[2].strip("/")) == b"evil"


@pytest.mark.parametrize(
    "target",
    ["../..", "/", "../../../../../../../..", "/../..", "..", "./..//../.."],
)
def test_file_below_an_escaping_symlink_lands_inside_the_root(
    workspace: Workspace, target: str
) -> None:
    layer = workspace.unpack(symlink("l", target), file("l/secret", b"evil"))
    assert layer.read("secret") == b"evil"
    assert layer.target("l") == target.encode()


def test_file_below_an_absolute_symlink_lands_inside_the_root(workspace: Workspace) -> None:
    target = str(workspace.path)
    layer = workspace.unpack(symlink("l", target), file("l/secret", b"evil"))
    assert layer.read(f"{target[1:]}/secret") == b"evil"


def test_absolute_symlink_in_a_directory_starts_at_the_root(workspace: Workspace) -> None:
    layer = workspace.unpack(
        symlink("d/e/l", "/usr"), symlink("usr/m", "../d"), file("d/e/l/m/x", b"1")
    )
    assert layer.read("d/x") == b"1"
    assert layer.names() == {b"d", b"d/e", b"d/e/l", b"d/x", b"usr", b"usr/m"}


def test_file_below_a_relative_symlink_goes_where_it_leads(workspace: Workspace) -> None:
    layer = workspace.unpack(
        dir("usr/lib"), symlink("lib", "usr/lib"), file("lib/x", b"1"), file("lib/new/y", b"2")
    )
    assert layer.read("usr/lib/x") == b"1"
    assert layer.read("usr/lib/new/y") == b"2"
    assert layer.target("lib") == b"usr/lib"
    assert layer.record.moved == {2: b"usr/lib/x", 3: b"usr/lib/new/y"}


def test_chain_of_symlinks_is_followed_inside_the_root(workspace: Workspace) -> None:
    links = [symlink(f"l{n}", f"../l{n + 1}") for n in range(39)]
    layer = workspace.unpack(*links, symlink("l39", "/d"), file("l0/x", b"1"))
    assert layer.read("d/x") == b"1"


@pytest.mark.parametrize(
    "links", [[("l", "l")], [("l", "m"), ("m", "l")], [("l", "./l/l")], [("l", "/l/../l")]]
)
def test_loop_of_symlinks_is_refused(workspace: Workspace, links: list[tuple[str, str]]) -> None:
    with pytest.raises(LayerError, match="symlink loop"):
        workspace.unpack(*(symlink(name, target) for name, target in links), file("l/x"))


def test_chain_of_too_many_symlinks_is_refused(workspace: Workspace) -> None:
    links = [symlink(f"l{n}", f"l{n + 1}") for n in range(41)]
    with pytest.raises(LayerError, match="symlink loop"):
        workspace.unpack(*links, dir("l41"), file("l0/x"))


def test_replaced_symlink_is_not_followed(workspace: Workspace) -> None:
    layer = workspace.unpack(
        dir("a"),
        dir("b"),
        symlink("l", "a"),
        file("l/1"),
        symlink("l", "b"),
        file("l/2"),
        dir("l"),
        file("l/3"),
    )
    assert layer.names() == {b"a", b"b", b"l", b"a/1", b"b/2", b"l/3"}


def test_symlink_in_a_cached_directory_does_not_escape(workspace: Workspace) -> None:
    # A known attack: a symlink replaces a directory whose descriptor is cached.
    layer = workspace.unpack(
        dir("d"), file("d/x", b"1"), symlink("d", "../.."), file("d/secret", b"evil")
    )
    assert layer.read("secret") == b"evil"
    assert layer.names() == {b"d", b"secret"}


def test_hard_link_does_not_escape_through_a_symlink(workspace: Workspace) -> None:
    layer = workspace.unpack(symlink("l", str(workspace.path)), hardlink("h", "l/secret"))
    assert not layer.exists("h")
    assert [(d.path, d.target) for d in layer.record.deferred_links] == [(b"h", b"l/secret")]


def test_hard_link_does_not_escape_by_its_name(workspace: Workspace) -> None:
    layer = workspace.unpack(hardlink("h", "../../secret"), hardlink("i", str(workspace.secret)))
    assert [d.target for d in layer.record.deferred_links] == [
        b"secret",
        os.fsencode(workspace.secret)[1:],
    ]


def test_symlink_target_is_never_rewritten(workspace: Workspace) -> None:
    targets: list[Text] = ["/etc/passwd", "../../../x", "a//b/./c/", "x" * 4095, b"\xff\n"]
    layer = workspace.unpack(*(symlink(f"l{n}", target) for n, target in enumerate(targets)))
    for n, target in enumerate(targets):
        assert layer.target(f"l{n}") == (target.encode() if isinstance(target, str) else target)


def test_symlink_target_over_the_limit_is_a_layer_error(workspace: Workspace) -> None:
    with pytest.raises(LayerError, match="too long"):
        workspace.unpack(symlink("l", "x" * 4096))


def test_symlink_without_a_target_is_malformed(workspace: Workspace) -> None:
    with pytest.raises(LayerError, match="malformed symlink"):
        workspace.unpack(symlink("l", ""))


@pytest.mark.parametrize("name", ["", ".", "./", "/", "..", "a/.."])
def test_root_directory_can_change_attributes(workspace: Workspace, name: str) -> None:
    layer = workspace.unpack(dir(name, mode=0o711), file("x"))
    assert layer.mode("") == 0o711
    assert layer.stat("").st_mtime == MTIME
    assert b"" not in layer.record.implied


@pytest.mark.parametrize(
    "entry",
    [file("./"), file("a/.."), symlink("/", "x"), hardlink(".", "x"), char("..", 1, 3), fifo("")],
    ids=["file", "file-dotdot", "symlink", "hardlink", "char", "fifo"],
)
def test_root_directory_cannot_change_type(workspace: Workspace, entry: bytes) -> None:
    with pytest.raises(LayerError, match="as the root directory"):
        workspace.unpack(file("x"), entry)


def test_root_without_an_entry_gets_fixed_attributes(workspace: Workspace) -> None:
    layer = workspace.unpack(file("d/x"))
    for path in ("", "d"):
        assert (layer.mode(path), layer.stat(path).st_mtime_ns) == (0o755, 0)
    assert layer.record.implied == {b"", b"d"}


# -- overlay marks --------------------------------------------------------------------------
@needs_root
@pytest.mark.parametrize("whiteout_format", list(WhiteoutFormat))
@pytest.mark.parametrize("what", ["opaque", "redirect", "metacopy", "whiteout", "overlay.opaque"])
def test_overlay_xattrs_in_a_layer_are_escaped(
    workspace: Workspace, whiteout_format: WhiteoutFormat, what: str
) -> None:
    name = f"{whiteout_format.value}.overlay.{what}"
    layer = workspace.unpack(
        dir("d", xattrs={name: b"y"}),
        file("f", xattrs={name: b"y"}),
        whiteout_format=whiteout_format,
    )
    for path in ("d", "f"):
        assert layer.xattrs(path) == {f"{whiteout_format.value}.overlay.overlay.{what}"}
        assert layer.xattr(path, f"{whiteout_format.value}.overlay.overlay.{what}") == b"y"
    assert not layer.is_opaque("d")
    assert layer.record.escaped_xattrs
    assert not layer.record.is_plain


@needs_root
def test_overlay_xattrs_of_the_other_format_are_kept_as_data(
    workspace: Workspace,
) -> None:
    layer = workspace.unpack(
        dir("d", xattrs={"user.overlay.opaque": b"y"}), whiteout_format=WhiteoutFormat.TRUSTED
    )
    assert layer.xattrs("d") == {"user.overlay.opaque"}
    assert not layer.is_opaque("d")
    assert not layer.record.escaped_xattrs


def test_char_device_0_0_in_a_layer_is_refused(workspace: Workspace) -> None:
    with pytest.raises(LayerError, match="overlay whiteout in a layer"):
        workspace.unpack(char("x", 0, 0))


@pytest.mark.parametrize(("major", "minor"), [(1 << 12, 0), (0, 1 << 20), (1 << 32, 1 << 32)])
def test_device_that_mknod_would_truncate_to_0_0_is_refused(
    workspace: Workspace, major: int, minor: int
) -> None:
    with pytest.raises(LayerError, match="device"):
        workspace.unpack(char("x", major, minor))


@needs_root
def test_devices_and_fifos_are_made(workspace: Workspace) -> None:
    layer = workspace.unpack(
        char("null", 1, 3, mode=0o666),
        block("sda", 8, 1, mode=0o660),
        block("zero", 0, 0),
        char("far", 4095, 1048575),
        fifo("pipe", mode=0o4600),
    )
    assert stat.S_ISCHR(layer.stat("null").st_mode)
    assert layer.stat("null").st_rdev == os.makedev(1, 3)
    assert layer.mode("null") == 0o666
    assert stat.S_ISBLK(layer.stat("sda").st_mode)
    assert layer.stat("zero").st_rdev == 0
    assert layer.stat("far").st_rdev == os.makedev(4095, 1048575)
    assert stat.S_ISFIFO(layer.stat("pipe").st_mode)
    assert layer.mode("pipe") == 0o4600
    assert layer.stat("pipe").st_mtime == MTIME


# -- replacement ------------------------------------------------------------------------------
def test_last_of_repeated_files_is_kept(workspace: Workspace) -> None:
    layer = workspace.unpack(*(file("x", b"%d" % n * n, mode=0o600 + n) for n in range(1, 8)))
    assert layer.read("x") == b"7777777"
    assert layer.mode("x") == 0o607
    assert layer.names() == {b"x"}


def test_repeated_directory_gets_the_last_attributes_and_keeps_its_files(
    workspace: Workspace,
) -> None:
    layer = workspace.unpack(dir("d", mode=0o700), file("d/x", b"1"), dir("d", mode=0o711))
    assert layer.mode("d") == 0o711
    assert layer.read("d/x") == b"1"


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o500, 0o1777, 0o2750, 0])
def test_implied_directory_gets_the_mode_of_its_later_entry(
    workspace: Workspace, mode: int
) -> None:
    if not IS_ROOT and not mode:
        pytest.skip("only root can look into such a directory")
    layer = workspace.unpack(file("d/e/x"), dir("d", mode=mode), dir("d/e", mode=0o711))
    assert (layer.mode("d"), layer.mode("d/e")) == (mode, 0o711)


def test_directory_can_become_a_file_and_a_directory_again(workspace: Workspace) -> None:
    layer = workspace.unpack(
        dir("d", mode=0o700),
        file("d/e/old", b"1"),
        file("d", b"2"),
        dir("d", mode=0o711),
        file("d/new", b"3"),
        file("d", b"4"),
        file("d/e/newer", b"5"),
    )
    assert layer.names() == {b"d", b"d/e", b"d/e/newer"}
    assert layer.read("d/e/newer") == b"5"
    assert layer.record.implied == {b"", b"d/e"}
    assert layer.is_opaque("d"), "the file that d was has hidden what lies below"


def test_directory_replaces_a_file_on_the_path(workspace: Workspace) -> None:
    layer = workspace.unpack(file("d", b"1"), file("d/x", b"2"))
    assert layer.read("d/x") == b"2"


def test_each_type_can_replace_each_other(workspace: Workspace) -> None:
    made = [
        file("x", b"1"), dir("x"), symlink("x", "t"), fifo("x"), hardlink("x", "t"),
    ]  # fmt: skip
    parts = [file("t", b"t")]
    for first in made:
        for second in made:
            parts += [first, second]
    layer = workspace.unpack(*parts)
    assert layer.read("x") == b"t"
    assert layer.names() == {b"x", b"t"}


def test_replacing_a_hard_link_keeps_its_target(workspace: Workspace) -> None:
    layer = workspace.unpack(file("a", b"1"), hardlink("b", "a"), file("b", b"22", mode=0o600))
    assert (layer.read("a"), layer.read("b")) == (b"1", b"22")
    assert layer.mode("a") == 0o644


def test_file_replaces_a_symlink_instead_of_its_target(workspace: Workspace) -> None:
    layer = workspace.unpack(
        file("t", b"1"), symlink("l", "t"), file("l", b"2"), symlink("m", "/t"), dir("m")
    )
    assert (layer.read("t"), layer.read("l")) == (b"1", b"2")
    assert layer.is_directory("m")
