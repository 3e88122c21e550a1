"""After a power cut the store uses nothing that is not what its digest says."""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import Stacker, at_home
from tests.support.images import layout
from tests.support.snapshot import snapshot
from tests.support.tars import dir as folder
from tests.support.tars import file, tar, whiteout
from tests.torture.disk import Disk

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="exchanges the boot ID by a mount"),
    pytest.mark.usefixtures("alone_among_mounts"),
]
LOWER = tar(folder("etc/"), file("etc/hosts", b"127.0.0.1 localhost\n" * 8))
UPPER = tar(whiteout("etc/hosts"), file("etc/issue", b"stacker\n"))
BOOT_ID = "/proc/sys/kernel/random/boot_id"
IN_BOOT = 'mount --bind "$0" ' + BOOT_ID + ' && exec "$@"'


@pytest.fixture
def app(tmp_path: Path) -> images.Layout:
    return layout(tmp_path / "app", [LOWER, UPPER])


def rebooted(stacker: Stacker) -> Stacker:
    """Return the command as it runs in another boot."""
    boot_id = stacker.store.parent / f"boot-{uuid.uuid4()}"
    boot_id.write_text(f"{uuid.uuid4()}\n")
    return replace(stacker, wrap=("unshare", "-m", "sh", "-c", IN_BOOT, str(boot_id)))


def paths(stacker: Stacker, app: images.Layout) -> list[Path]:
    return [
        stacker.store / "layers/sha256" / diff_id.partition(":")[2]
        for diff_id in app.image.diff_ids
    ]


def lose_contents(layer: Path) -> None:
    """Leave a layer as ext4 leaves it when the power fails before its data are written."""
    for path in [layer / "layer.json", *(layer / "diff").rglob("*")]:
        if path.is_file():
            os.truncate(path, 0)
    (layer / "durable").unlink(missing_ok=True)


def forget_flush(stacker: Stacker, app: images.Layout) -> None:
    for layer in paths(stacker, app):
        (layer / "durable").unlink(missing_ok=True)


def test_a_pull_answers_first_and_marks_its_layers_durable_later(
    stacker: Stacker, app: images.Layout
) -> None:
    stacker("pull", app.source)
    wait_until_durable(stacker, app)


def wait_until_durable(stacker: Stacker, image: images.Layout) -> None:
    deadline = time.monotonic() + 60
    while not all((layer / "durable").exists() for layer in paths(stacker, image)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_pull_that_waits_for_the_disk_ends_with_durable_layers(
    stacker: Stacker, app: images.Layout
) -> None:
    stacker("pull", "--sync", app.source)
    assert all((layer / "durable").exists() for layer in paths(stacker, app))


def test_a_pull_without_a_flush_leaves_its_layers_to_be_verified(
    stacker: Stacker, app: images.Layout
) -> None:
    stacker("pull", "--no-sync", app.source)
    time.sleep(0.3)
    assert not any((layer / "durable").exists() for layer in paths(stacker, app))
    rebooted(stacker)("unpack", "app:1.0", stacker.store.parent / "tree")
    assert all((layer / "durable").exists() for layer in paths(stacker, app))


USES = {
    "pull": ("pull", "oci:{0}/app"),
    "unpack": ("unpack", "app:1.0", "{0}/tree"),
    "push": ("push", "app:1.0", "oci:{0}/pushed:1"),
    "index-push": ("index", "push", "both", "oci:{0}/pushed:1"),
    "export": ("export", "app:1.0", "-o", "{0}/app.tar"),
    "export-erofs": ("export", "--format", "erofs", "app:1.0", "-o", "{0}/app.erofs"),
    "export-layer": ("export", "--layer", "2", "app:1.0", "-o", "{0}/layer.tar"),
    "convert": ("convert", "--form", "erofs", "app:1.0"),
    "mount-copy": ("mount", "--driver", "copy", "app:1.0", "{0}/target"),
}
"""Commands that use the files of all layers."""


@pytest.mark.parametrize("name", USES)
def test_a_layer_that_lost_its_contents_is_unpacked_again_before_its_first_use(
    stacker: Stacker, app: images.Layout, tmp_path: Path, name: str
) -> None:
    stacker("pull", "--no-sync", app.source)
    stacker("index", "create", "both", "app:1.0")
    stacker("unpack", "app:1.0", tmp_path / "right")
    (tmp_path / "target").mkdir()
    for layer in paths(stacker, app):
        lose_contents(layer)
    after = rebooted(stacker)
    after(*(word.format(tmp_path) for word in USES[name]))
    after("verify", "--all")
    after("unpack", "app:1.0", tmp_path / "again")
    assert snapshot(tmp_path / "again") == snapshot(tmp_path / "right")


def test_a_mount_after_a_power_cut_has_the_right_files(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", "--no-sync", app.source)
    for layer in paths(stacker, app):
        lose_contents(layer)
    (tmp_path / "target").mkdir()
    look = 'mount --bind "$0" ' + BOOT_ID + ' && "$@" && cat "${@: -1}/etc/issue"'
    once = replace(rebooted(stacker), wrap=(*rebooted(stacker).wrap[:2], "bash", "-c", look))
    once = replace(once, wrap=(*once.wrap, rebooted(stacker).wrap[-1]))
    assert once("mount", "app:1.0", tmp_path / "target").out.endswith("stacker\n")


def test_without_a_source_one_line_names_the_pull_that_helps(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", "--no-sync", app.source)
    lose_contents(paths(stacker, app)[0])
    app.path.rename(tmp_path / "moved")
    said = rebooted(stacker).refused(5, "unpack", "app:1.0", tmp_path / "tree")
    assert f"stacker --store {stacker.store} pull {app.source}" in said
    assert not (tmp_path / "tree").exists()
    listed = rebooted(stacker)("images", "--json").items
    assert [item["names"] for item in listed] == [["app:1.0"]]


def test_a_damaged_layer_does_not_touch_an_image_that_lacks_it(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    other = layout(tmp_path / "other", [LOWER], name="other")
    stacker("pull", "--sync", other.source)
    stacker("pull", "--no-sync", app.source)
    lose_contents(paths(stacker, app)[1])
    app.path.rename(tmp_path / "moved")
    after = rebooted(stacker)
    after("unpack", "other", tmp_path / "tree")
    after.refused(5, "unpack", "app:1.0", tmp_path / "none")
    after("rm", "app:1.0")
    after.assert_clean(images=1, layers=1)


def test_a_flush_does_not_mark_the_layers_of_an_earlier_boot_durable(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", "--no-sync", app.source)
    stacker("unpack", "app:1.0", tmp_path / "right")
    for layer in paths(stacker, app):
        lose_contents(layer)
    after = rebooted(stacker)
    other = layout(tmp_path / "other", [tar(file("other", b"1"))], name="other")
    after("pull", other.source)
    wait_until_durable(stacker, other)
    assert not any((layer / "durable").exists() for layer in paths(stacker, app))
    after("unpack", "app:1.0", tmp_path / "again")
    assert snapshot(tmp_path / "again") == snapshot(tmp_path / "right")


def test_a_layer_is_verified_once_its_filesystem_was_mounted_again_in_the_same_boot(
    app: images.Layout, tmp_path: Path
) -> None:
    """A disk that is unplugged loses what was not written, without a reboot."""
    disk = Disk(tmp_path / "image", tmp_path / "disk", "ext4")
    disk.format()
    disk.mount()
    try:
        stacker = at_home(disk.path)
        stacker("pull", "--no-sync", app.source)
        stacker("unpack", "app:1.0", tmp_path / "right")
        disk.commit_journal()
        disk.cut_power()
        disk.unmount()
        disk.mount()
        stacker("unpack", "app:1.0", tmp_path / "again")
        assert snapshot(tmp_path / "again") == snapshot(tmp_path / "right")
    finally:
        disk.remove()
