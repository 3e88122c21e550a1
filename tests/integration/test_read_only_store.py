"""A store on a read-only filesystem: commands read it, and refuse to change it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stacker.store.store import Store
from tests.support import images
from tests.support.command import Stacker, at_home
from tests.support.mounts import unmount_below
from tests.support.sample import BASE, MIDDLE, TOP
from tests.support.snapshot import snapshot

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a read-only filesystem"),
    pytest.mark.usefixtures("alone_among_mounts"),
]


@pytest.fixture
def app(tmp_path: Path) -> images.Layout:
    return images.layout(tmp_path / "app", [BASE, MIDDLE, TOP])


@pytest.fixture
def stacker(tmp_path: Path) -> Iterator[Stacker]:
    stacker = at_home(tmp_path)
    yield stacker
    found = run_directory(stacker)
    unmount_below(tmp_path)
    shutil.rmtree(found, ignore_errors=True)


@pytest.fixture
def baked(stacker: Stacker, app: images.Layout) -> Stacker:
    """Return the command with a store that has an image and is read-only."""
    stacker("pull", "--sync", app.source)
    make_read_only(stacker.store)
    return stacker


def make_read_only(store: Path) -> None:
    subprocess.run(["mount", "--bind", store, store], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", store], check=True)


def run_directory(stacker: Stacker) -> Path:
    """Return the directory that has what changes of a read-only store."""
    return Store.open(stacker.store, create=False).changing


def tree_of(stacker: Stacker, target: Path, *words: str) -> object:
    """Return the contents of the image's mount."""
    stacker("mount", *words, "app:1.0", target)
    found = snapshot(target)
    stacker("umount", target)
    return found


@pytest.mark.parametrize("driver", ["overlay", "fuse", "copy"])
@pytest.mark.parametrize("form", ["tree", "erofs"])
def test_mount_of_a_read_only_store_has_the_tree_of_a_writable_one(
    stacker: Stacker, app: images.Layout, target: Path, form: str, driver: str
) -> None:
    stacker("pull", "--sync", "--form", form, app.source)
    want = tree_of(stacker, target, "--driver", driver)
    make_read_only(stacker.store)
    assert tree_of(stacker, target, "--driver", driver) == want


def test_stack_that_a_read_only_store_lacks_is_built_outside_of_it(
    stacker: Stacker, app: images.Layout, target: Path
) -> None:
    stacker("pull", "--sync", app.source)
    want = tree_of(stacker, target)
    shutil.rmtree(stacker.store / "chains/sha256")
    make_read_only(stacker.store)
    assert tree_of(stacker, target) == want
    assert len(list(run_directory(stacker).glob("chains/sha256/*/chain.json"))) == 1


def test_damaged_stack_of_a_read_only_store_is_built_again(
    stacker: Stacker, app: images.Layout, target: Path
) -> None:
    stacker("pull", "--sync", app.source)
    want = tree_of(stacker, target)
    (record,) = stacker.store.glob("chains/sha256/*/chain.json")
    record.write_text("")
    make_read_only(stacker.store)
    assert tree_of(stacker, target) == want


def test_mount_of_a_read_only_store_takes_writes_and_is_listed(
    baked: Stacker, target: Path
) -> None:
    baked("mount", "--rw", "app:1.0", target)
    (target / "new").write_text("written")
    (mount,) = baked("mounts", "--json").items
    assert (mount["target"], mount["state"]) == (str(target), "mounted")
    baked("umount", target)
    assert baked("mounts", "--json").items == []


def test_queries_of_a_read_only_store_leave_no_file_outside_of_it(
    baked: Stacker, app: images.Layout
) -> None:
    assert [image["image_id"] for image in baked("images", "--json").items] == [app.image.config]
    for words in (["inspect", "app:1.0"], ["layers", "app:1.0"], ["history", "app:1.0"], ["df"]):
        baked(*words)
    for words in (["mounts"], ["index", "list"], ["gc"]):
        baked(*words)
    assert not run_directory(baked).exists()


def test_image_of_a_read_only_store_is_verified_unpacked_and_pushed(
    baked: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    baked("verify", "app:1.0")
    baked("unpack", "app:1.0", tmp_path / "rootfs")
    assert (tmp_path / "rootfs").is_dir()
    baked("push", "app:1.0", f"oci:{tmp_path / 'pushed'}")
    second = Stacker(tmp_path / "second")
    assert second("pull", f"oci:{tmp_path / 'pushed'}").last == app.image.config


@pytest.mark.parametrize(
    "words",
    [
        ["pull", "SOURCE"],
        ["rm", "app:1.0"],
        ["convert", "--form", "erofs", "app:1.0"],
        ["index", "create", "all", "app:1.0"],
        ["index", "rm", "all"],
    ],
    ids=" ".join,
)
def test_command_that_changes_a_read_only_store_names_it(
    baked: Stacker, app: images.Layout, words: list[str]
) -> None:
    message = baked.refused(2, *(app.source if word == "SOURCE" else word for word in words))
    assert f"store is read-only: {baked.store}" in message
    assert "--additional-store" in message


def test_unflushed_layers_of_a_read_only_store_are_verified_once(
    stacker: Stacker, app: images.Layout, target: Path
) -> None:
    stacker("pull", "--no-sync", app.source)
    for session in stacker.store.glob("layers/sha256/*/session"):
        session.write_text("another boot\n")
    make_read_only(stacker.store)
    tree_of(stacker, target)
    marks = {
        path: path.stat().st_mtime_ns for path in run_directory(stacker).glob("layers/*/*.session")
    }
    assert len(marks) == len(set(app.image.diff_ids))
    tree_of(stacker, target)
    assert {path: path.stat().st_mtime_ns for path in marks} == marks


def test_damaged_layer_of_a_read_only_store_is_not_mounted(
    stacker: Stacker, app: images.Layout, target: Path
) -> None:
    stacker("pull", "--no-sync", app.source)
    for session in stacker.store.glob("layers/sha256/*/session"):
        session.write_text("another boot\n")
    damaged = next(
        path for path in stacker.store.glob("layers/sha256/*/diff/**/*") if path.is_file()
    )
    damaged.write_text("other contents")
    make_read_only(stacker.store)
    assert "store is read-only" in stacker.refused(2, "mount", "app:1.0", target)


def test_read_only_store_of_another_user_is_refused(baked: Stacker) -> None:
    subprocess.run(["umount", baked.store], check=True)
    os.chown(baked.store, 65534, 65534)
    make_read_only(baked.store)
    assert "store of another user" in baked.refused(2, "images")
    subprocess.run(["umount", baked.store], check=True)
    os.chown(baked.store, 0, 0)
