"""Images in EROFS form, through the real command: every verb gives what it gives for trees."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stacker.errors import MountError
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.mount.drivers.overlay import OverlayDriver
from stacker.mount.plan import MountRequest, StackedImage
from stacker.operations.convert import add_form
from stacker.store.store import Store
from tests.support import images
from tests.support.command import Stacker, at_home
from tests.support.images import layout
from tests.support.indexes import merged_stack
from tests.support.mounts import unmount_below
from tests.support.snapshot import Node, snapshot
from tests.support.tars import dir as folder
from tests.support.tars import file, hardlink, opaque, sparse_01, symlink, tar, whiteout

LOWER = tar(
    folder("etc/", mode=0o750, uid=3, gid=4),
    file("etc/hosts", b"127.0.0.1 localhost\n" * 800, mode=0o640, xattrs={"user.note": b"yes"}),
    file("etc/passwd", b"root:x:0:0::/:/bin/sh\n"),
    hardlink("etc/link", "etc/passwd"),
    symlink("lib", "usr/lib"),
    folder("usr/"),
    folder("usr/lib/"),
    file("usr/lib/gone", b"g"),
    file("var/old", b"o"),
)
UPPER = tar(
    whiteout("usr/lib/gone"),
    file("lib/x", b"x" * 9999, xattrs={"trusted.overlay.note": b"own"}),
    hardlink("etc/second", "etc/passwd"),
    opaque("var"),
    file("var/new", b"n"),
)
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts filesystems: needs root"),
    pytest.mark.usefixtures("alone_among_mounts"),
]


@pytest.fixture
def stacker(tmp_path: Path) -> Iterator[Stacker]:
    yield at_home(tmp_path)
    unmount_below(tmp_path)


@pytest.fixture
def app(tmp_path: Path) -> images.Layout:
    return layout(tmp_path / "app", [LOWER, UPPER])


@pytest.fixture
def wanted(tmp_path: Path, app: images.Layout) -> dict[bytes, Node]:
    trees = at_home(tmp_path, store="trees")
    trees("pull", "--no-sync", app.source)
    trees("unpack", app.image.config, tmp_path / "wanted")
    return snapshot(tmp_path / "wanted")


def layers(stacker: Stacker, app: images.Layout) -> list[Path]:
    root = stacker.store / "layers" / "sha256"
    return [root / each.partition(":")[2] for each in app.image.diff_ids]


def forms(stacker: Stacker, app: images.Layout) -> list[list[str]]:
    items = json.loads(stacker("layers", "--json", app.image.config).out)["items"]
    return [item["forms"] for item in items]


def test_pull_in_erofs_form_creates_no_tree(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", "--no-sync", "--form", "erofs", app.source)
    for layer, content in zip(layers(stacker, app), (LOWER, UPPER), strict=True):
        assert {path.name for path in layer.iterdir()} == {
            *("layer.tar", "index.erofs", "layer.json", "session"),
        }
        stored = (layer / "layer.tar").read_bytes()
        assert stored == content + bytes(-len(content) % 512)
    assert forms(stacker, app) == [["erofs"], ["erofs"]]


@pytest.mark.parametrize("driver", ["overlay", "fuse", "copy"])
def test_mount_of_the_erofs_form_equals_that_of_trees(
    stacker: Stacker, app: images.Layout, wanted: dict[bytes, Node], tmp_path: Path, driver: str
) -> None:
    stacker("pull", "--no-sync", "--form", "erofs", app.source)
    target = tmp_path / "target"
    target.mkdir()
    stacker("mount", "--driver", driver, app.image.config, target)
    assert snapshot(target) == wanted
    stacker("umount", target)
    assert os.listdir(target) == []
    assert os.listdir(stacker.store / "mounts") == []


def test_unpack_of_the_erofs_form_equals_that_of_trees(
    stacker: Stacker, app: images.Layout, wanted: dict[bytes, Node], tmp_path: Path
) -> None:
    stacker("pull", "--no-sync", "--form", "erofs", app.source)
    stacker("unpack", app.image.config, tmp_path / "plain")
    assert snapshot(tmp_path / "plain") == wanted


@pytest.mark.parametrize("option", ["--rw", "--upper"])
@pytest.mark.parametrize("driver", ["overlay", "fuse"])
def test_writes_go_above_the_index(
    stacker: Stacker, app: images.Layout, tmp_path: Path, driver: str, option: str
) -> None:
    stacker("pull", "--no-sync", "--form", "erofs", app.source)
    target, upper = tmp_path / "target", tmp_path / "upper"
    target.mkdir()
    words = [option] if option == "--rw" else [option, upper]
    before = [(layer / "layer.tar").read_bytes() for layer in layers(stacker, app)]
    stacker("mount", "--driver", driver, *words, app.image.config, target)
    with (target / "etc" / "hosts").open("ab") as hosts:
        hosts.write(b"::1 localhost\n")
    (target / "usr" / "lib" / "x").unlink()
    (target / "new").write_text("new")
    assert (target / "etc" / "hosts").read_bytes().endswith(b"localhost\n::1 localhost\n")
    stacker("umount", target)
    assert [(layer / "layer.tar").read_bytes() for layer in layers(stacker, app)] == before
    assert (upper / "new").exists() == (option == "--upper")
    assert os.listdir(stacker.store / "mounts") == []


def test_an_overlay_that_fails_leaves_no_mount_of_the_index(tmp_path: Path) -> None:
    stack = merged_stack([LOWER], tmp_path, WhiteoutFormat.TRUSTED)
    image = StackedImage("image", stack)
    plan = MountRequest(tmp_path / "target", read_only=False).plan(image, "id", tmp_path / "own")
    plan = replace(plan, work=Path("/proc"))  # not the mount of the upper directory
    for path in (plan.target, *filter(None, (plan.index_directory, plan.upper))):
        path.mkdir(parents=True)
    with pytest.raises(MountError):
        OverlayDriver().mount(plan)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_mounts_of_one_index_share_its_filesystem(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    plain = layout(tmp_path / "plain", [LOWER])
    stacker("pull", "--no-sync", "--form", "erofs", plain.source)
    targets = [tmp_path / name for name in ("first", "second")]
    for target in targets:
        target.mkdir()
        stacker("mount", plain.image.config, target)
    devices = {os.stat(target).st_dev for target in targets}
    assert len(devices) == 1
    stacker("umount", targets[0])
    assert (targets[1] / "etc" / "passwd").read_bytes() == b"root:x:0:0::/:/bin/sh\n"
    states = json.loads(stacker("mounts", "--json").out)["items"]
    assert [each["target"] for each in states] == [str(targets[1])]
    stacker("umount", targets[1])


def test_a_changed_tar_is_found_and_repaired(
    stacker: Stacker, app: images.Layout, wanted: dict[bytes, Node], tmp_path: Path
) -> None:
    stacker("pull", "--sync", "--form", "erofs", app.source)
    path = layers(stacker, app)[0] / "layer.tar"
    content = bytearray(path.read_bytes())
    content[content.index(b"127.0.0.1")] ^= 1
    path.write_bytes(content)
    assert stacker.run("verify", app.image.config).code == 5
    assert layers(stacker, app)[0].name in stacker("repair", app.image.config).out
    assert forms(stacker, app) == [["erofs"], ["erofs"]]
    stacker("verify", app.image.config)
    stacker("unpack", app.image.config, tmp_path / "plain")
    assert snapshot(tmp_path / "plain") == wanted


def damage(path: Path, content: bytes) -> None:
    """Change the first byte of a content in a tar."""
    whole = bytearray(path.read_bytes())
    whole[whole.index(content)] ^= 1
    path.write_bytes(whole)


def differences(stacker: Stacker, *words: str) -> list[tuple[str, str]]:
    """Return the path and the kind of each difference that `verify` finds in the first layer."""
    found = stacker.run("verify", "--json", *words)
    assert found.code == 5
    [layer, *_] = found.item["layers"]
    return [(each["path"], each["what"]) for each in layer["differences"]]


def test_changed_contents_in_a_tar_are_named_exactly_once_a_layer_was_verified(
    stacker: Stacker, app: images.Layout
) -> None:
    stacker("pull", "--sync", "--form", "erofs", app.source)
    path = layers(stacker, app)[0] / "layer.tar"
    sound = path.read_bytes()
    damage(path, b"root:x")
    assert differences(stacker, app.image.config) == []
    path.write_bytes(sound)
    stacker("verify", app.image.config)
    damage(path, b"127.0.0.1")
    damage(path, b"root:x")
    assert differences(stacker, app.image.config) == [
        ("etc/hosts", "contents"),
        ("etc/passwd", "contents"),
    ]
    stacker("repair", app.image.config)
    stacker("verify", app.image.config)


def test_changed_contents_of_a_sparse_and_of_a_replaced_file_are_named(
    stacker: Stacker, tmp_path: Path
) -> None:
    parts = (
        sparse_01("sparse", 100_000, [(0, b"y" * 600), (5000, b"first"), (70_001, b"last")]),
        file("twice", b"earlier"),
        file("twice", b"later"),
    )
    app = layout(tmp_path / "sparse", [tar(*parts)])
    stacker("pull", "--sync", "--form", "erofs", app.source)
    stacker("verify", app.image.config)
    path = layers(stacker, app)[0] / "layer.tar"
    sound = path.read_bytes()
    for content, name in ((b"last", "sparse"), (b"earlier", "twice"), (b"later", "twice")):
        damage(path, content)
        assert (name, "contents") in differences(stacker, app.image.config)
        path.write_bytes(sound)


def test_checksums_of_a_layer_outlast_a_change_of_its_form(
    stacker: Stacker, app: images.Layout
) -> None:
    stacker("pull", "--sync", app.source)
    stacker("verify", app.image.config)
    stacker("convert", app.image.config, "--form", "erofs")
    damage(layers(stacker, app)[0] / "layer.tar", b"root:x")
    assert differences(stacker, app.image.config) == [("etc/passwd", "contents")]
    stacker("repair", app.image.config)
    stacker("convert", app.image.config, "--form", "tree")
    stacker("verify", app.image.config)


def test_a_changed_index_is_found_and_its_file_named(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", "--sync", "--form", "erofs", app.source)
    other = layout(stacker.store.parent / "other", [tar(file("etc/hosts", b"h", mode=0o644))])
    elsewhere = at_home(stacker.store.parent, store="elsewhere")
    elsewhere("pull", "--no-sync", "--form", "erofs", other.source)
    [changed] = layers(elsewhere, other)
    shutil.copy(changed / "index.erofs", layers(stacker, app)[0] / "index.erofs")
    text = stacker.run("verify", "--fast", "--json", app.image.config).out
    assert "etc/hosts" in text
    assert "0640" in text


@pytest.mark.parametrize("name", ["index.erofs", "layer.tar"])
def test_an_empty_file_of_a_layer_is_damage_that_repair_mends(
    stacker: Stacker, app: images.Layout, name: str
) -> None:
    stacker("pull", "--sync", "--form", "erofs", app.source)
    (layers(stacker, app)[1] / name).write_bytes(b"")
    assert stacker.run("verify", app.image.config).code == 5
    stacker("repair", app.image.config)
    stacker("verify", app.image.config)


@pytest.mark.parametrize("is_empty", [False, True])
def test_a_changed_merged_index_is_found_and_built_again(
    stacker: Stacker, app: images.Layout, *, is_empty: bool
) -> None:
    stacker("pull", "--sync", "--form", "erofs", app.source)
    [index] = (stacker.store / "chains").glob("*/*/merged.erofs")
    content = bytearray(index.read_bytes())
    content[-600] ^= 0xFF
    index.write_bytes(b"" if is_empty else content)
    assert stacker.run("verify", app.image.config).code == 5
    stacker("repair", app.image.config)
    stacker("verify", app.image.config)


def test_push_of_the_erofs_form_gives_the_same_layers(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", "--no-sync", "--form", "erofs", app.source)
    stacker("push", app.image.config, f"oci:{tmp_path / 'out'}:app")
    again = at_home(tmp_path, store="again")
    assert app.image.config in again("pull", "--no-sync", f"oci:{tmp_path / 'out'}:app").out
    again("verify", app.image.config)


@pytest.mark.parametrize("first", ["tree", "erofs"])
def test_convert_changes_the_form_without_the_source(
    stacker: Stacker,
    app: images.Layout,
    wanted: dict[bytes, Node],
    tmp_path: Path,
    first: str,
) -> None:
    second = "erofs" if first == "tree" else "tree"
    stacker("pull", "--sync", "--form", first, app.source)
    shutil.rmtree(app.path)
    stacker("convert", app.image.config, "--form", second)
    assert forms(stacker, app) == [[second], [second]]
    stacker("verify", app.image.config)
    stacker("unpack", app.image.config, tmp_path / "plain")
    assert snapshot(tmp_path / "plain") == wanted


def test_a_tree_whose_removal_was_killed_can_still_be_verified(
    stacker: Stacker, tmp_path: Path
) -> None:
    unusual = tar(file("a", b"first"), file("a", b"second"))
    app = layout(tmp_path / "unusual", [unusual])
    stacker("pull", "--sync", app.source)
    store = Store.open(stacker.store)
    [diff_id] = store.images.config(store.images.find(app.image.config)).diff_ids
    assert add_form(store, [diff_id], "erofs") == 1

    def killed(paths: Iterable[Path]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.layers.drop(
            diff_id, "tree", store.layers.record(diff_id).without_form("tree"), killed
        )
    stacker("verify", app.image.config)


def test_a_shared_layer_keeps_the_form_that_another_image_uses(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    base = layout(tmp_path / "base", [LOWER])
    stacker("pull", "--no-sync", base.source)
    stacker("pull", "--no-sync", "--form", "erofs", app.source)
    assert forms(stacker, app) == [["tree", "erofs"], ["erofs"]]
    stacker("rm", base.image.config)
    stacker("convert", app.image.config, "--form", "erofs")
    stacker("verify", "--all")


def test_rm_and_gc_leave_nothing_of_the_erofs_form(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", "--no-sync", "--form", "erofs", app.source)
    stacker("rm", app.image.config)
    stacker("gc")
    assert not any(path.exists() for path in layers(stacker, app))
    assert list((stacker.store / "chains").glob("*/*")) == []


def test_print_plan_lists_the_mounts_of_the_erofs_form(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", "--no-sync", "--form", "erofs", app.source)
    (tmp_path / "target").mkdir()
    plan = json.loads(
        stacker(
            "mount", "--print-plan", "--json", "--rw", app.image.config, tmp_path / "target"
        ).out
    )
    text = json.dumps(plan)
    assert '"type": "erofs"' in text
    assert '"type": "overlay"' in text
