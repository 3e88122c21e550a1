"""`stacker verify`, `push` and `mount --verify` find damaged layers and name the files."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from tests.support import images
from tests.support.command import Stacker
from tests.support.damage import tree
from tests.support.unpacking import needs_root


def test_an_image_as_it_was_unpacked_is_sound(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", "--sync", app.source)
    assert stacker("verify", "app:1.0").last == app.image.config
    for words in (("--all",), ("--all", "--fast")):
        item = stacker("verify", *words, "--json").item
        assert item["sound"]
        assert {layer["diff_id"] for layer in item["layers"]} == set(app.image.diff_ids)


def chmod(root: Path) -> None:
    (root / "etc/hosts").chmod(0o600)


def chown(root: Path) -> None:
    os.chown(root / "etc", 12, 34)


def touch(root: Path) -> None:
    os.utime(root / "etc/hosts", ns=(5, 5))


def change_contents(root: Path) -> None:
    hosts = root / "etc/hosts"
    before = hosts.stat()
    hosts.write_bytes(hosts.read_bytes().replace(b"127", b"666"))
    os.utime(hosts, ns=(before.st_atime_ns, before.st_mtime_ns))


def chmod_root(root: Path) -> None:
    root.chmod(0o711)


def change_xattr(root: Path) -> None:
    os.setxattr(root / "etc/hosts", "user.note", b"no")


def add_xattr(root: Path) -> None:
    os.setxattr(root / "etc", "user.more", b"1")


def truncate(root: Path) -> None:
    os.truncate(root / "etc/hosts", 3)


def remove(root: Path) -> None:
    (root / "etc/hosts").unlink()


def add(root: Path) -> None:
    (root / "etc/more").write_bytes(b"")


def add_directory(root: Path) -> None:
    (root / "more").mkdir()


def retarget(root: Path) -> None:
    (root / "lib").unlink()
    (root / "lib").symlink_to("elsewhere")


def change_type(root: Path) -> None:
    (root / "lib").unlink()
    (root / "lib").mkdir()


def unlink_from_group(root: Path) -> None:
    shutil.copy2(root / "etc/passwd", root / "etc/copy")
    (root / "etc/copy").rename(root / "etc/link")


def mark_opaque(root: Path) -> None:
    os.setxattr(root / "etc", "trusted.overlay.opaque", b"y")


def add_whiteout(root: Path) -> None:
    os.mknod(root / "etc/gone", 0o20000, 0)


DAMAGE: tuple[tuple[Callable[[Path], None], str, str], ...] = (
    (chmod, "/etc/hosts", "mode: got 0600, want 0644"),
    (chown, "/etc", "owner: got 12:34, want 0:0"),
    (touch, "/etc/hosts", "mtime: got 5 ns"),
    (chmod_root, "/", "mode: got 0711, want 0755"),
    (change_xattr, "/etc/hosts", "xattr user.note: got 2 bytes 6e6f, want 3 bytes 796573"),
    (add_xattr, "/etc", "xattr user.more: got 1 bytes 31, want none"),
    (truncate, "/etc/hosts", "size: got 3 bytes, want 160 bytes"),
    (remove, "/etc/hosts", "type: got nothing, want file"),
    (add, "/etc/more", "type: got file, want nothing"),
    (add_directory, "/more", "type: got directory, want nothing"),
    (retarget, "/lib", "target: got elsewhere, want usr/lib"),
    (change_type, "/lib", "type: got directory, want symbolic link"),
    (unlink_from_group, "/etc/link", "hard links: got /etc/link, want /etc/link, /etc/passwd"),
    (mark_opaque, "/etc", "opaque: got true, want false"),
    (add_whiteout, "/etc/gone", "type: got whiteout, want nothing"),
)


@needs_root
@pytest.mark.parametrize(("damage", "path", "what"), DAMAGE, ids=[d[0].__name__ for d in DAMAGE])
def test_each_kind_of_damage_is_named_and_repaired(
    stacker: Stacker,
    app: images.Layout,
    damage: Callable[[Path], None],
    path: str,
    what: str,
) -> None:
    stacker("pull", "--sync", app.source)
    damage(tree(stacker, app, 0))
    for words in ((), ("--fast",)):
        found = stacker.run("verify", "app:1.0", *words)
        assert found.code == 5, found.err
        assert f"layer {app.image.diff_ids[0]}: {path}: {what}" in found.out
    assert stacker("repair", "app:1.0").out.split() == [app.image.diff_ids[0]]
    stacker("verify", "--all")
    assert stacker("repair", "app:1.0").out == ""


def test_changed_contents_of_the_same_size_are_found(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", "--sync", app.source)
    change_contents(tree(stacker, app, 0))
    found = stacker.run("verify", "--all")
    assert found.code == 5
    assert "/etc/hosts: contents: got changed after the commit" in found.out
    assert "hosts" not in stacker.run("verify", "--all", "--fast").out
    stacker("repair", "--all")
    stacker("verify", "--all")


def test_changed_contents_are_named_exactly_once_a_layer_was_verified(
    stacker: Stacker, app: images.Layout
) -> None:
    stacker("pull", "--sync", app.source)
    stacker("verify", "--all")
    change_contents(tree(stacker, app, 0))
    (tree(stacker, app, 0) / "etc/passwd").touch()  # a changed time, but the same contents
    found = stacker.run("verify", "--all", "--json")
    layers = {layer["diff_id"]: layer for layer in found.item["layers"]}
    wrong = layers[app.image.diff_ids[0]]["differences"]
    assert [(each["path"], each["what"]) for each in wrong] == [
        ("etc/hosts", "contents"),
        ("etc/link", "mtime"),  # the other name of the next file
        ("etc/passwd", "mtime"),
    ]
    before = (b"127.0.0.1 localhost\n" * 8, b"666.0.0.1 localhost\n" * 8)
    want, got = (f"{zlib.crc32(contents):08x}" for contents in before)
    assert (wrong[0]["got"], wrong[0]["want"]) == (f"CRC-32 {got}", want)
    stacker("repair", "--all")
    stacker("verify", "--all")


@needs_root
def test_push_refuses_a_layer_with_changed_attributes_and_names_the_file(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", "--sync", app.source)
    to = f"oci-archive:{tmp_path}/out.tar"
    for number, damage, path, what in (
        *((0, *each) for each in DAMAGE),
        (2, lambda root: (root / "d/x").chmod(0o777), "/d/x", "mode: got 0777, want 0644"),
    ):
        damage(tree(stacker, app, number))
        said = stacker.refused(5, "push", "app:1.0", to)
        layer = app.image.diff_ids[number]
        assert f"layer differs from its skeleton: layer {layer}: {path}: {what}" in said
        repair = f"`stacker --store {stacker.store} repair {app.image.config[7:19]}`"
        assert f"hint: {repair} replaces damaged layers" in said
        stacker("repair", "--all", "--fast")
        assert not (tmp_path / "out.tar").exists()
    stacker("push", "app:1.0", to)


@needs_root
def test_an_index_refuses_a_member_with_changed_attributes(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", "--sync", app.source)
    stacker("index", "create", "all", "app:1.0")
    chmod(tree(stacker, app, 0))
    said = stacker.refused(5, "index", "push", "all", f"oci:{tmp_path}/out")
    assert "/etc/hosts: mode: got 0600, want 0644" in said


def test_layers_whose_entries_replace_each_other_are_compared_too(
    stacker: Stacker, app: images.Layout
) -> None:
    stacker("pull", "--sync", app.source)
    (tree(stacker, app, 2) / "d/x").chmod(0o777)
    found = stacker.run("verify", "--all", "--fast")
    assert found.code == 5
    assert "/d/x: mode: got 0777, want 0644" in found.out
    stacker("repair", "app:1.0")
    stacker("verify", "--all")


@pytest.mark.parametrize("name", ["layer.json", "skeleton.tar.zst"])
def test_an_empty_record_or_skeleton_is_damage_of_its_layer_alone(
    stacker: Stacker, app: images.Layout, name: str
) -> None:
    stacker("pull", "--sync", app.source)
    (tree(stacker, app, 0).parent / name).write_bytes(b"")
    found = stacker.run("verify", "--all", "--json")
    assert found.code == 5
    sound = {layer["diff_id"]: layer["sound"] for layer in found.item["layers"]}
    assert sound == dict(zip(app.image.diff_ids, (False, True, True), strict=True))
    stacker("images")
    stacker("df")
    stacker("repair", "--all")
    stacker("verify", "--all")


@pytest.mark.parametrize("words", [(), ("--fast",)])
@pytest.mark.parametrize("number", [0, 2])
def test_a_truncated_skeleton_is_damage_of_its_layer(
    stacker: Stacker, app: images.Layout, number: int, words: tuple[str, ...]
) -> None:
    stacker("pull", "--sync", app.source)
    skeleton = tree(stacker, app, number).parent / "skeleton.tar.zst"
    plain = zstandard.ZstdDecompressor().decompressobj().decompress(skeleton.read_bytes())
    for cut in (plain[:512], plain[:700], plain[:-1024]):
        skeleton.write_bytes(zstandard.ZstdCompressor().compress(cut))
        found = stacker.run("verify", "--all", "--json", *words)
        sound = [layer["diff_id"] for layer in found.item["layers"] if layer["sound"]]
        if (cut, words) == (plain[:-1024], ("--fast",)):
            assert found.code == 0  # only the end marker is missing, which no file needs
        else:
            assert found.code == 5, cut
            assert app.image.diff_ids[number] not in sound
            assert len(sound) == 2


def test_a_missing_layer_is_damage_and_is_repaired(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", "--sync", app.source)
    shutil.rmtree(tree(stacker, app, 1).parent)
    assert "the layer is not in the store" in stacker.run("verify", "--all").out
    stacker("repair", "--all")
    stacker("verify", "--all")


def unchanged(root: Path) -> None:
    pass


@needs_root
@pytest.mark.usefixtures("alone_among_mounts")
@pytest.mark.parametrize("driver", ["auto", "overlay", "fuse", "copy", "fuse-overlayfs"])
@pytest.mark.parametrize(
    ("damage", "verify", "path"),
    [
        (unchanged, "fast", None),
        (unchanged, "full", None),
        (chmod, "fast", "/etc/hosts: mode: got 0600, want 0644"),
        (chmod, "full", "/etc/hosts: mode: got 0600, want 0644"),
        (change_contents, "fast", None),
        (change_contents, "full", "/etc/hosts: contents: "),
    ],
)
def test_mount_refuses_an_image_that_verify_finds_damaged(
    stacker: Stacker,
    app: images.Layout,
    tmp_path: Path,
    *,
    driver: str,
    damage: Callable[[Path], None],
    verify: str,
    path: str | None,
) -> None:
    if driver == "fuse-overlayfs" and shutil.which(driver) is None:
        pytest.skip("not installed: fuse-overlayfs")
    target = tmp_path / "target"
    target.mkdir()
    stacker("pull", "--sync", app.source)
    damage(tree(stacker, app, 0))
    done = stacker.run("mount", "--driver", driver, "--verify", verify, "app:1.0", target)
    if path is None:
        assert done.code == 0, done.err
        assert done.out.splitlines() == [driver.replace("auto", "overlay")]
        stacker("umount", target)
        return
    assert done.code == 5
    assert done.out.startswith(f"layer {app.image.diff_ids[0]}: {path}")
    assert f"`stacker --store {stacker.store} repair app:1.0` replaces damaged layers" in done.err
    assert os.listdir(target) == []
    assert stacker("mounts", "--json").items == []


def test_mount_reports_damage_as_verify_does(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", "--sync", app.source)
    chmod(tree(stacker, app, 0))
    words = ("mount", "--verify", "fast", "--json", "app:1.0", tmp_path)
    found = stacker.run(*words)
    assert found.code == 5
    assert found.document == stacker.run("verify", "--fast", "--json", "app:1.0").document
    assert stacker.run(*words, "--print-plan").document == found.document
