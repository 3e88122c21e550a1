"""Building stacks (docs/rules.md, Stacking)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from stacker.errors import LayerError, UnsupportedError
from stacker.layer.paths import Stack
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux.mountapi import OVERLAY_MAX_LAYERS
from stacker.stack.build import build_stack
from stacker.tar.limits import Limits
from tests.support.indexes import merged_snapshot, merged_stack
from tests.support.sequential import Item, Sequential
from tests.support.snapshot import snapshot
from tests.support.stacks import (
    D,
    F,
    L,
    O,
    S,
    W,
    archive,
    mounted,
    scratch,
    unpacked,
    unpacked_stack,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts overlays: needs root")
FORMAT = WhiteoutFormat.TRUSTED


@pytest.fixture
def workspace() -> Iterator[Path]:
    with scratch() as directory:
        yield directory


def unpack(workspace: Path, *layers: Sequence[Item]) -> Stack:
    return unpacked_stack([archive(layer) for layer in layers], workspace, FORMAT)


def shows(workspace: Path, *layers: Sequence[Item]) -> Stack:
    """Stack layers, and compare the mount with the sequential applier."""
    reference = Sequential()
    for layer in layers:
        reference.apply(layer)
    index = merged_stack([archive(layer) for layer in layers], workspace, FORMAT)
    assert merged_snapshot(index) == reference.snapshot()
    stack = unpack(workspace, *layers)
    with mounted(stack, workspace) as target:
        assert snapshot(target) == reference.snapshot()
    return stack


def names(stack: Stack) -> list[str]:
    return [path.name if path.name != "diff" else path.parent.name for path in stack.directories]


def test_ordinary_stack_needs_no_repairs(workspace: Path) -> None:
    base = (D("etc"), F("etc/a"), D("usr"))
    stack = shows(workspace, base, (D("etc"), F("etc/b")), (D("etc"), W("etc/a")))
    assert names(stack) == ["layer-2", "layer-1", "layer-0"]
    assert os.listdir(workspace / "chain") == []


def test_implied_directory_keeps_the_lower_attributes(workspace: Path) -> None:
    etc = Item("directory", "etc", mode=0o1711, uid=7, gid=8, mtime=5_000_000_000)
    stack = shows(workspace, (etc, F("etc/a")), (F("etc/b"),))
    assert names(stack)[0] == "fixup"
    assert os.listdir(workspace / "chain" / "fixup") == ["etc"]


def test_implied_directory_keeps_the_lower_xattrs(workspace: Path) -> None:
    etc = Item("directory", "etc", mode=0o755, xattrs=(("user.kind", b"\0lower"),))
    shows(workspace, (etc,), (F("etc/b"),))


def test_implied_root_keeps_the_lower_attributes(workspace: Path) -> None:
    shows(workspace, (Item("directory", "", mode=0o711, mtime=9_000_000_000), F("a")), (F("b"),))


def test_file_below_a_lower_symlink_lands_at_its_target(workspace: Path) -> None:
    base = (D("usr"), D("usr/lib"), S("lib", "usr/lib"))
    stack = shows(workspace, base, (F("lib/x"),))
    with mounted(stack, workspace) as target:
        assert os.readlink(target / "lib") == "usr/lib"
        assert (target / "usr/lib/x").read_bytes() == b"x"


def test_rebased_file_shares_its_contents_with_the_layer(workspace: Path) -> None:
    unpack(workspace, (D("usr"), S("lib", "usr")), (F("lib/x"),))
    moved = workspace / "chain" / "rebased-1" / "diff" / "usr" / "x"
    assert moved.stat().st_ino == (workspace / "layer-1" / "diff" / "lib" / "x").stat().st_ino


def test_whiteout_below_a_lower_symlink_deletes_at_its_target(workspace: Path) -> None:
    shows(workspace, (D("usr"), F("usr/x"), F("usr/y"), S("lib", "usr")), (W("lib/x"),))


def test_opaque_whiteout_at_a_lower_symlink_empties_its_target(
    workspace: Path,
) -> None:
    shows(workspace, (D("usr"), F("usr/x"), S("lib", "usr")), (O("lib"), F("lib/y"), F("usr/z")))


def test_directory_entry_replaces_a_lower_symlink_in_any_order(
    workspace: Path,
) -> None:
    base = (D("usr"), F("usr/x"), S("lib", "usr"))
    shows(workspace, base, (F("lib/y"), D("lib"), O("lib")))


def test_link_into_a_lower_layer_has_its_target_s_content_and_metadata(workspace: Path) -> None:
    target = Item("file", "a", b"below", mode=0o640, uid=3, mtime=4_000_000_000)
    stack = shows(workspace, (target,), (L("b", "a"),))
    assert names(stack) == ["links-1", "layer-1", "layer-0"]


def test_link_to_a_lower_symlink_links_the_symlink(workspace: Path) -> None:
    shows(workspace, (S("a", "nowhere"),), (L("b", "a"),))


def test_link_to_a_lower_file_through_a_lower_symlink(workspace: Path) -> None:
    shows(workspace, (D("usr"), F("usr/a"), S("lib", "usr")), (L("b", "lib/a"),))


def test_link_to_a_file_that_its_layer_deletes_is_refused(workspace: Path) -> None:
    with pytest.raises(LayerError, match="does not exist"):
        unpack(workspace, (F("a"),), (W("a"), L("b", "a")))


def test_link_to_a_missing_file_is_refused(workspace: Path) -> None:
    with pytest.raises(LayerError, match="got the target gone, which does not exist"):
        unpack(workspace, (F("a"),), (L("b", "gone"),))


def test_link_to_itself_without_a_file_is_refused(workspace: Path) -> None:
    with pytest.raises(LayerError, match="got the target a, which does not exist"):
        unpack(workspace, (F("b"),), (L("a", "a"),))
    with pytest.raises(LayerError, match="got the target a, which does not exist"):
        unpack(workspace / "deleted", (F("a"),), (W("a"), L("a", "a")))


def test_link_to_itself_keeps_what_a_lower_layer_has(workspace: Path) -> None:
    lower = (F("a"), D("d"), F("d/x"))
    stack = shows(workspace, lower, (L("a", "a"), L("d", "d"), L("h", "a")))
    with mounted(stack, workspace) as target:
        assert (target / "a").stat().st_ino == (target / "h").stat().st_ino
        assert (target / "d/x").exists()


def test_link_to_a_lower_directory_is_refused(workspace: Path) -> None:
    with pytest.raises(LayerError, match="which is a directory"):
        unpack(workspace, (D("a"),), (L("b", "a"),))


def test_chain_of_links_over_three_layers_is_one_inode(workspace: Path) -> None:
    stack = shows(workspace, (F("a"),), (L("b", "a"),), (L("c", "b"),))
    with mounted(stack, workspace) as target:
        assert len({(target / name).stat().st_ino for name in "abc"}) == 1


def test_repeated_layer_keeps_its_topmost_position(workspace: Path) -> None:
    again = (F("a"), D("d"), F("d/x"))
    stack = shows(workspace, again, (W("a"), W("d/x")), again)
    assert names(stack) == ["layer-0", "layer-1"]


def test_symlink_of_a_repeated_layer_applies_to_layers_between(workspace: Path) -> None:
    again = (S("lib", "usr"),)
    shows(workspace, again, (F("lib/x"),), again)


def test_link_to_a_later_link_ignores_the_lower_file_of_that_name(
    workspace: Path,
) -> None:
    shows(workspace, (F("a", b"old"), F("f", b"new")), (L("b", "a"), L("a", "f")))


def test_links_in_reverse_order_are_made(workspace: Path) -> None:
    shows(workspace, (F("f"),), (L("c", "b"), L("b", "a"), L("a", "f")))


def test_link_target_may_pass_through_a_link_to_a_lower_symlink(workspace: Path) -> None:
    shows(workspace, (D("d"), F("d/f"), S("s", "d")), (L("x", "l/f"), L("l", "s")))


@pytest.mark.parametrize("call", ["lstat", "readlink"])
def test_symlink_that_the_disk_cannot_read_is_an_error(
    call: str, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {name: getattr(os, name) for name in ("lstat", "readlink")}

    def fail(name: str, path: bytes, **options: int) -> Any:
        if os.fsencode(path).endswith(b"/l"):
            raise OSError(errno.EIO, "Input/output error", path)
        return whole[name](path, **options)

    for name in {call, "readlink"}:
        monkeypatch.setattr(os, name, partial(fail, name))
    with pytest.raises(OSError, match="Input/output error"):
        unpack(workspace, (D("d"), F("d/f"), S("s", "d")), (L("x", "l/f"), L("l", "s")))


def test_cyclic_links_are_refused(workspace: Path) -> None:
    with pytest.raises(LayerError, match="depends on this link itself"):
        unpack(workspace, (F("a"), F("b")), (L("a", "b"), L("b", "a")))


def test_link_hides_a_lower_directory_of_its_name(workspace: Path) -> None:
    with pytest.raises(LayerError, match="does not exist"):
        unpack(workspace, (D("a"), F("a/x"), F("f")), (L("a", "f"), L("b", "a/x")))


def test_links_do_not_join_files_of_a_repeated_layer(workspace: Path) -> None:
    again = (F("a"),)
    stack = shows(workspace, again, (L("b", "a"),), again)
    assert [name for name in names(stack) if name.startswith("copy")] == ["copy-2"]


def test_layer_repeated_without_links_between_is_copied_once(workspace: Path) -> None:
    again = (F("a"),)
    stack = shows(workspace, again, (L("b", "a"),), again, (F("c"),), again, again)
    assert [name for name in names(stack) if name.startswith("copy")] == ["copy-2"]


def test_layer_repeated_in_a_row_is_added_once(workspace: Path) -> None:
    base, again = (F("a"), F("b")), (W("b"), L("c", "a"), F("d/e"))
    stack = shows(workspace, base, again, again, again)
    assert [name for name in names(stack) if name.startswith(("links", "copy"))] == ["links-1"]


def test_copies_of_repeated_layers_are_limited(workspace: Path) -> None:
    base, links = (F("a", b"x" * 1000),), (L("b", "a"),)
    layers = [archive(layer) for layer in (base, links) * 4]
    with pytest.raises(LayerError, match="copies of more than 2500 bytes") as caught:
        unpacked_stack(layers, workspace, FORMAT, limits=Limits(unpacked_bytes=2500))
    assert "--max-bytes" in (caught.value.hint or "")


def test_copied_layer_keeps_its_whiteouts_and_marks(workspace: Path) -> None:
    base = (F("old"), D("d"), F("d/old"), F("f"))
    again = (W("old"), D("d"), O("d"), F("g"))
    shows(workspace, base, again, (L("h", "g"), F("old"), F("d/new")), again)


def test_opaque_root_hides_all_lower_layers(workspace: Path) -> None:
    root = Item("directory", "", mode=0o700, mtime=3_000_000_000)
    stack = shows(workspace, (root, F("a"), D("d")), (O(""), F("b")))
    assert names(stack) == ["fixup", "layer-1", "root-1"]


def test_whiteout_in_an_unmerged_directory_is_not_listed(workspace: Path) -> None:
    """Overlayfs lists the whiteouts of a directory that it does not merge."""
    stack = shows(workspace, (D("d"), W("d/gone"), F("d/a")), (F("b"),))
    with mounted(stack, workspace) as target:
        assert os.listdir(target / "d") == ["a"]


def test_directory_that_replaces_a_file_hides_lower_entries(workspace: Path) -> None:
    shows(workspace, (D("d"), F("d/old")), (F("d"), F("d/new")))


def test_image_without_layers_is_an_empty_directory(workspace: Path) -> None:
    stack = unpack(workspace)
    assert stack.plain
    assert [os.listdir(directory) for directory in stack.directories] == [[]]


def test_one_layer_with_whiteouts_is_not_plain(workspace: Path) -> None:
    assert not unpack(workspace, (F("a"), W("b"))).plain


def test_one_layer_without_whiteouts_is_plain(workspace: Path) -> None:
    assert unpack(workspace, (F("a"),)).plain


def test_300_layers_mount(workspace: Path) -> None:
    layers = [(F(f"f{n}"), *((W(f"f{n - 1}"),) if n % 3 == 0 else ())) for n in range(300)]
    assert len(shows(workspace, *layers).directories) == 300


def test_rebase_applies_the_layer_s_limits(workspace: Path) -> None:
    parts = (archive([S("lib", "usr")]), archive([F("lib/a/b/x")]))
    layers = [unpacked(number, tar, workspace, FORMAT) for number, tar in enumerate(parts)]
    for name, limits in (("default", None), ("three", Limits(depth=3))):
        (workspace / name).mkdir()
        build_stack(layers, repairs=workspace / name, whiteout_format=FORMAT, limits=limits)
    (workspace / "two").mkdir()
    with pytest.raises(LayerError, match="nested directories"):
        build_stack(
            layers, repairs=workspace / "two", whiteout_format=FORMAT, limits=Limits(depth=2)
        )


def test_past_500_layers_the_lowest_are_merged(workspace: Path) -> None:
    layers = [(F(f"f{n}"), D("d"), F(f"d/{n}"), W(f"d/{n - 1}")) for n in range(520)]
    stack = shows(workspace, *layers)
    assert len(stack.directories) == OVERLAY_MAX_LAYERS
    assert names(stack)[-1] == "base"


def test_layers_of_two_whiteout_formats_do_not_stack(workspace: Path) -> None:
    one = unpacked(1, archive([F("a")]), workspace, WhiteoutFormat.TRUSTED)
    two = unpacked(2, archive([F("b")]), workspace, WhiteoutFormat.USER)
    with pytest.raises(UnsupportedError, match="want one format"):
        build_stack([one, two], repairs=workspace, whiteout_format=FORMAT)
