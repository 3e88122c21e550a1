"""Damage to the chain of an image is found by verify, named, and mended by repair."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import Stacker
from tests.support.images import layout
from tests.support.mounts import unmount_below
from tests.support.snapshot import snapshot
from tests.support.tars import dir as folder
from tests.support.tars import file, hardlink, symlink, tar, whiteout

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts overlays"),
    pytest.mark.usefixtures("alone_among_mounts"),
]
BASE = tar(
    symlink("lib", "usr/lib"),
    folder("usr/lib/"),
    file("usr/lib/old", b"old"),
    folder("etc/", mode=0o750, xattrs={"user.note": b"yes"}),
    file("etc/a", b"a file"),
)
MIDDLE = tar(whiteout("usr/lib/old"), file("lib/new", b"new"), file("etc/b", b"b file"))
LINKS = tar(hardlink("etc/link", "etc/a"))
TOP = tar(file("etc/c", b"c file"))
LAYERS = [BASE, MIDDLE, LINKS, BASE, TOP]
"""Their stack has every kind of directory but a merged one: rebased, links, copy and fixup."""


@pytest.fixture
def app(tmp_path: Path) -> images.Layout:
    return layout(tmp_path / "app", LAYERS)


def chain(stacker: Stacker) -> Path:
    (found,) = stacker.store.glob("chains/sha256/*[!.]")
    return found


def chmod_fixup(root: Path) -> None:
    (root / "fixup/etc").chmod(0o777)


def change_xattr(root: Path) -> None:
    os.setxattr(root / "fixup/etc", "user.note", b"no")


def add(root: Path) -> None:
    (root / "rebased-1/diff/usr/lib/more").write_bytes(b"")


def remove_whiteout(root: Path) -> None:
    (root / "rebased-1/diff/usr/lib/old").unlink()


def remove_link(root: Path) -> None:
    (root / "links-2/etc/link").unlink()


def touch_copy(root: Path) -> None:
    os.utime(root / "copy-3/etc/a", ns=(5, 5))


def remove_directory(root: Path) -> None:
    shutil.rmtree(root / "links-2")


def omit_directory(root: Path) -> None:
    record = json.loads((root / "chain.json").read_bytes())
    record["directories"] = record["directories"][1:]
    (root / "chain.json").write_text(json.dumps(record))


def empty_record(root: Path) -> None:
    (root / "chain.json").write_bytes(b"")


DAMAGE: tuple[tuple[Callable[[Path], None], str, str], ...] = (
    (chmod_fixup, "/fixup/etc", "mode: got 0777, want 0750"),
    (change_xattr, "/fixup/etc", "xattr user.note: got 2 bytes 6e6f, want 3 bytes 796573"),
    (add, "/rebased-1/diff/usr/lib/more", "type: got file, want nothing"),
    (remove_whiteout, "/rebased-1/diff/usr/lib/old", "type: got nothing, want whiteout"),
    (remove_link, "/links-2/etc/link", "type: got nothing, want file"),
    (touch_copy, "/copy-3/etc/a", "mtime: got 5 ns"),
    (remove_directory, "/links-2", "type: got no directory, want directory"),
    (omit_directory, "/chain.json", "directories: got "),
)


@pytest.mark.parametrize(("damage", "path", "what"), DAMAGE, ids=[d[0].__name__ for d in DAMAGE])
def test_each_kind_of_damage_to_a_chain_is_named_and_repaired(
    stacker: Stacker,
    app: images.Layout,
    tmp_path: Path,
    *,
    damage: Callable[[Path], None],
    path: str,
    what: str,
) -> None:
    stacker("pull", "--sync", app.source)
    stacker("unpack", "app:1.0", tmp_path / "right")
    root = chain(stacker)
    damage(root)
    chain_id = f"sha256:{root.name}"
    for words in (("verify", "app:1.0"), ("verify", "--all", "--fast")):
        found = stacker.run(*words)
        assert found.code == 5, found.err
        assert f"chain {chain_id}: {path}: {what}" in found.out
        assert f"damaged: chain {chain_id}" in found.err
    item = stacker.run("verify", "--all", "--json").item
    (listed,) = item["chains"]
    assert (item["sound"], listed["sound"]) == (False, False)
    assert path in [f"/{each['path']}" for each in listed["differences"]]
    assert stacker("repair", "app:1.0").out.split() == [chain_id]
    stacker("verify", "--all")
    stacker("unpack", "app:1.0", tmp_path / "again")
    assert snapshot(tmp_path / "again") == snapshot(tmp_path / "right")
    assert stacker("repair", "app:1.0", "--json").document["chains"] == []


def test_changed_contents_of_a_copied_layer_are_found_by_a_full_verify(
    stacker: Stacker, app: images.Layout
) -> None:
    stacker("pull", "--sync", app.source)
    changed = chain(stacker) / "copy-3/etc/a"
    before = changed.stat()
    changed.write_bytes(b"b FILE")
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    stacker("verify", "--fast", "app:1.0")
    assert "/copy-3/etc/a: contents: " in stacker.run("verify", "app:1.0").out
    stacker("repair", "--all")
    stacker("verify", "--all")


def test_verify_of_a_sound_chain_changes_nothing(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", "--sync", app.source)
    before = snapshot(chain(stacker))
    (listed,) = stacker("verify", "--all", "--json").item["chains"]
    assert listed["sound"]
    assert snapshot(chain(stacker)) == before
    stacker.assert_clean(images=1, layers=4)


@pytest.mark.parametrize("verify", ["fast", "full"])
def test_mount_refuses_an_image_with_a_damaged_chain(
    stacker: Stacker, app: images.Layout, tmp_path: Path, verify: str
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    stacker("pull", "--sync", app.source)
    chmod_fixup(chain(stacker))
    done = stacker.run("mount", "--verify", verify, "app:1.0", target)
    assert done.code == 5
    assert "/fixup/etc: mode: got 0777, want 0750" in done.out
    repair = f"`stacker --store {stacker.store} repair app:1.0`"
    assert f"hint: {repair} replaces damaged layers and chains" in done.err
    assert os.listdir(target) == []


@pytest.mark.parametrize("driver", ["overlay", "fuse"])
def test_repair_of_a_chain_leaves_a_running_mount_its_files(
    stacker: Stacker, app: images.Layout, tmp_path: Path, driver: str
) -> None:
    target, again = tmp_path / "target", tmp_path / "again"
    target.mkdir()
    again.mkdir()
    stacker("pull", "--sync", app.source)
    stacker("mount", "--driver", driver, "app:1.0", target)
    try:
        right = snapshot(target)
        touch_copy(chain(stacker))
        stacker("repair", "app:1.0")
        stacker("gc")
        assert snapshot(target).keys() == right.keys()
        assert (target / "etc/link").read_bytes() == b"a file"
        stacker("mount", "--driver", driver, "app:1.0", again)
        assert snapshot(again) == right
    finally:
        unmount_below(tmp_path)
    stacker("gc")
    assert not list(stacker.store.glob("*/sha256/*.replaced-*"))
    stacker("verify", "--all")


def test_an_empty_record_of_a_chain_is_found_and_does_not_hinder_a_mount(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", "--sync", app.source)
    stacker("unpack", "app:1.0", tmp_path / "right")
    empty_record(chain(stacker))
    assert "damaged chain record: " in stacker.run("verify", "--all").out
    stacker("unpack", "app:1.0", tmp_path / "again")
    assert snapshot(tmp_path / "again") == snapshot(tmp_path / "right")
    stacker("verify", "--all")


def test_a_chain_that_a_power_cut_may_have_damaged_is_not_reported(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", "--sync", app.source)
    root = chain(stacker)
    chmod_fixup(root)
    (root / "session").write_text("another boot")
    (root / "durable").unlink()
    stacker("verify", "--all")
    stacker("unpack", "app:1.0", tmp_path / "again")  # builds the chain again
    assert (tmp_path / "again/etc").stat().st_mode & 0o7777 == 0o750


def test_damage_to_a_layer_is_not_reported_of_its_chain_too(
    stacker: Stacker, app: images.Layout
) -> None:
    stacker("pull", "--sync", app.source)
    (damaged,) = stacker.store.glob("layers/sha256/*/diff/lib/new")
    damaged.chmod(0o600)
    item = stacker.run("verify", "--all", "--json").item
    assert [layer["sound"] for layer in item["layers"]].count(False) == 1
    assert item["chains"] == []
    stacker("repair", "--all")
    (listed,) = stacker("verify", "--all", "--json").item["chains"]
    assert listed["sound"]
