"""Layers get another form, and lose one that no image and no mount uses."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from stacker.linux import lock, mountapi, mountinfo
from stacker.mount.drivers.erofs import mount_index
from stacker.operations.mount import stacked_image
from stacker.operations.stack import add_form, chain_id_of
from stacker.store.store import Store
from tests.support import images
from tests.support.command import PATIENCE, Stacker, at_home, conforming
from tests.support.forms import LOWER, forms_of
from tests.support.images import layout
from tests.support.mounts import unmount_below
from tests.support.snapshot import Node, snapshot
from tests.support.tars import file, tar

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts filesystems: needs root"),
    pytest.mark.usefixtures("alone_among_mounts"),
]


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
    assert forms_of(stacker, app) == [[second], [second]]
    stacker("verify", app.image.config)
    stacker("unpack", app.image.config, tmp_path / "plain")
    assert snapshot(tmp_path / "plain") == wanted


def test_images_and_df_show_the_forms_of_each_image(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    base = layout(tmp_path / "base", [LOWER])
    stacker("pull", "--no-sync", base.source)
    stacker("pull", "--no-sync", "--form", "erofs", app.source)
    listed = conforming(stacker("images", "--json").document)["items"]
    used = conforming(stacker("df", "--json").document)["item"]["images"]
    for found in (listed, used):
        assert {each["image_id"]: each["forms"] for each in found} == {
            base.image.config: ["tree", "erofs"],  # both images have its layer
            app.image.config: ["tree", "erofs"],
        }
    stacker("rm", base.image.config)
    stacker("gc")
    for verb in ("images", "df"):
        head, row = (line.split("  ") for line in stacker(verb).out.splitlines()[:2])
        names, cells = ([each.strip() for each in line if each] for line in (head, row))
        assert cells[names.index("FORM")] == "erofs"


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
    assert forms_of(stacker, app) == [["tree", "erofs"], ["erofs"]]
    stacker("rm", base.image.config)
    stacker("convert", app.image.config, "--form", "erofs")
    stacker("verify", "--all")


@pytest.mark.parametrize("driver", ["overlay", "fuse"])
@pytest.mark.parametrize("change", [("tree", "erofs"), ("erofs", "tree")])
def test_gc_removes_the_other_form_of_a_layer_once_no_mount_uses_it(
    stacker: Stacker,
    app: images.Layout,
    wanted: dict[bytes, Node],
    change: tuple[str, str],
    driver: str,
) -> None:
    first, second = change
    target = stacker.store.parent / "target"
    target.mkdir()
    stacker("pull", "--sync", "--form", first, app.source)
    stacker("mount", "--driver", driver, app.image.config, target)
    stacker("convert", app.image.config, "--form", second)
    assert forms_of(stacker, app) == [["tree", "erofs"]] * 2
    assert "form" not in gc_kinds(stacker)
    assert snapshot(target) == wanted
    stacker("umount", target)
    planned = gc_kinds(stacker, "--dry-run")
    assert forms_of(stacker, app) == [["tree", "erofs"]] * 2
    assert gc_kinds(stacker) == planned
    assert planned.count("form") == 2
    assert forms_of(stacker, app) == [[second]] * 2
    stacker("verify", "--all")
    stacker("mount", "--driver", driver, app.image.config, target)
    assert snapshot(target) == wanted


@pytest.mark.parametrize("options", [[], ["--rw"]])
def test_mount_through_loop_devices_outlives_a_conversion(
    app: images.Layout, wanted: dict[bytes, Node], tmp_path: Path, options: list[str]
) -> None:
    """The kernel mounts no EROFS from files on a tmpfs, and a loop device knows renamed files."""
    memory, target = tmp_path / "memory", tmp_path / "target"
    memory.mkdir()
    target.mkdir()
    mountapi.mount("tmpfs", memory, "tmpfs", 0)
    stacker = at_home(memory)
    stacker("pull", "--no-sync", "--form", "erofs", app.source)
    stacker("mount", "--driver", "overlay", *options, app.image.config, target)
    try:
        stacker("convert", app.image.config, "--form", "tree")
        stacker("gc")
        assert [each["state"] for each in stacker("mounts", "--json").items] == ["mounted"]
        assert snapshot(target) == wanted
        stacker("umount", target)
        assert mountinfo.read().below(stacker.store) == []
        stacker("rm", app.image.config)
        stacker("gc")
        stacker.assert_clean()
    finally:
        unmount_below(tmp_path)


@pytest.mark.parametrize("later", ["nothing", "another mount", "no directory"])
def test_index_is_mounted_although_its_shared_mount_is_gone(
    stacker: Stacker, app: images.Layout, tmp_path: Path, later: str
) -> None:
    """Another process unmounts the shared one after this process has found it."""
    shared, target = tmp_path / "shared", tmp_path / "target"
    target.mkdir()
    if later != "no directory":
        shared.mkdir()
    if later == "another mount":
        mountapi.mount("tmpfs", shared, "tmpfs", 0)
    stacker("pull", "--no-sync", "--form", "erofs", app.source)
    store = Store.open(stacker.store)
    stack = store.chains.read(chain_id_of(store.images.config(store.images.find("app:1.0"))))
    assert stack.merged is not None
    try:
        mount_index(stack.merged, target, attributes=0, shared=shared)
        assert (target / "etc/passwd").exists()
        second = tmp_path / "second"
        second.mkdir()
        mount_index(stack.merged, second, attributes=0, shared=target)
        assert second.stat().st_dev == target.stat().st_dev
    finally:
        unmount_below(tmp_path)


def test_gc_keeps_both_forms_of_a_layer_that_two_images_use_in_two_forms(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    base = layout(tmp_path / "base", [LOWER])
    stacker("pull", "--sync", "--form", "tree", base.source)
    stacker("pull", "--sync", "--form", "erofs", app.source)
    assert gc_kinds(stacker) == []
    assert forms_of(stacker, app) == [["tree", "erofs"], ["erofs"]]
    stacker("rm", base.image.config)
    assert gc_kinds(stacker, "--older-than", "1h") == []
    assert gc_kinds(stacker) == ["form"]
    assert forms_of(stacker, app) == [["erofs"], ["erofs"]]
    stacker("verify", "--all")


def gc_kinds(stacker: Stacker, *words: str) -> list[str]:
    """Return the kinds of the objects that `gc` removes."""
    items = conforming(stacker("gc", "--json", *words).document)["items"]
    return [each["kind"] for each in items]


def test_an_image_in_use_locks_its_chain(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", "--no-sync", app.source)
    store = Store.open(stacker.store)
    chain = store.chains.path(chain_id_of(store.images.config(store.images.find("app:1.0"))))
    with stacked_image(store, "app:1.0"):
        assert lock.try_exclusive(chain, create=False) is None
    with lock.exclusive(chain, create=False):
        pass


def test_a_chain_in_use_is_exchanged_only_afterwards(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", "--no-sync", app.source)
    store = Store.open(stacker.store)
    chain_id = chain_id_of(store.images.config(store.images.find(app.image.config)))
    with store.chains.reading(chain_id) as stack:
        assert stack is not None
        converting = stacker.start("convert", app.image.config, "--form", "erofs")
        wait_for_lock(converting.pid, store.chains.path(chain_id))
        assert store.chains.read(chain_id) == stack
    _, err = converting.communicate()
    assert converting.returncode == 0, err
    assert store.chains.read(chain_id).form == "erofs"


def wait_for_lock(process: int, path: Path) -> None:
    """Wait until a process waits for a lock on a path (proc_locks(5))."""
    wanted = [str(process), f":{path.stat().st_ino}"]
    end = time.monotonic() + PATIENCE
    while True:
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        waiting = [[lock[-4], lock[-3][-len(wanted[1]) :]] for lock in locks if "->" in lock]
        if wanted in waiting:
            return
        assert time.monotonic() < end
        time.sleep(0.01)
