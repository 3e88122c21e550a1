"""Names that are removed, and mounts that end by one command."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import Stacker, conforming
from tests.support.tars import file, tar

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
BASE, TOP = tar(file("base", b"1")), tar(file("top", b"2"))


def test_rm_of_a_name_keeps_the_image_until_its_last_name(
    stacker: Stacker, app: images.Layout
) -> None:
    stacker("pull", app.source)
    stacker("tag", "app:1.0", "app", "two")
    done = stacker("rm", "app", "--json")
    document = conforming(done.document)
    assert document["items"] == []
    assert document["untagged"] == [{"name": "app:latest", "image_id": app.image.config}]
    assert "has other names" in stacker("rm", "two").err
    assert stacker.names() == {app.image.config: ["app:1.0"]}
    assert stacker("rm", "app:1.0").last == app.image.config
    stacker.assert_clean(layers=0)


def test_rm_of_an_id_with_several_names_needs_force(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", app.source)
    stacker("tag", "app:1.0", "two")
    text = stacker.refused(2, "rm", app.image.config)
    assert "app:1.0, two:latest" in text
    assert "--force" in text
    assert stacker("rm", "--force", app.image.config).last == app.image.config
    stacker.assert_clean(layers=0)


def test_rm_of_all_names_removes_the_image(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", app.source)
    stacker("tag", "app:1.0", "two")
    assert stacker("rm", "two", "app:1.0").last == app.image.config
    stacker.assert_clean(layers=0)


def test_rm_all_removes_every_image(
    stacker: Stacker, app: images.Layout, other: images.Layout
) -> None:
    stacker("pull", app.source)
    stacker("pull", other.source)
    assert stacker("rm", "--all").out.split() == [app.image.config, other.image.config]
    stacker.assert_clean(layers=0)
    assert stacker("rm", "--all").out == ""
    stacker.refused(2, "rm", "--all", "app:1.0")
    stacker.refused(2, "rm")


def test_untag_keeps_the_image(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", app.source)
    stacker("tag", "app:1.0", "two")
    stacker.refused(3, "untag", "two", "three")
    stacker.refused(3, "untag", app.image.config)
    assert stacker.names() == {app.image.config: ["app:1.0", "two:latest"]}
    document = conforming(stacker("untag", "two", "app:1.0", "--json").document)
    assert [item["name"] for item in document["items"]] == ["two:latest", "app:1.0"]
    assert stacker.names() == {app.image.config: []}
    assert stacker("inspect", app.source, "--json").item["image_id"] == app.image.config
    stacker.refused(3, "inspect", "app:1.0")
    stacker("tag", app.image.config, "back")
    assert stacker.names() == {app.image.config: ["back:latest"]}


@needs_root
@pytest.mark.usefixtures("alone_among_mounts")
def test_umount_all_unmounts_every_mount(
    stacker: Stacker, app: images.Layout, other: images.Layout, tmp_path: Path
) -> None:
    targets = [tmp_path / "one", tmp_path / "two"]
    for image, target in zip((app, other), targets, strict=True):
        target.mkdir()
        stacker("pull", image.source)
        stacker("mount", image.image.config, target)
    document = conforming(stacker("umount", "--all", "--json").document)
    assert {item["target"] for item in document["items"]} == set(map(str, targets))
    assert stacker("mounts", "--json").items == []
    stacker("umount", "--all")
    stacker.refused(2, "umount")
    stacker.refused(2, "umount", "--all", targets[0])


@needs_root
@pytest.mark.usefixtures("alone_among_mounts")
def test_umount_all_unmounts_the_others_if_one_is_in_use(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    targets = [tmp_path / "one", tmp_path / "two"]
    stacker("pull", app.source)
    for target in targets:
        target.mkdir()
        stacker("mount", "app:1.0", target)
    with (targets[1] / "base").open():
        assert str(targets[1]) in stacker.refused(9, "umount", "--all")
        (entry,) = stacker("mounts", "--json").items
        assert entry["target"] == str(targets[1])
    stacker("umount", "--all")


@needs_root
@pytest.mark.usefixtures("alone_among_mounts")
@pytest.mark.parametrize("driver", ["overlay", "fuse"])
def test_rm_keeps_an_image_whose_mount_has_a_damaged_record(
    stacker: Stacker, app: images.Layout, tmp_path: Path, driver: str
) -> None:
    both = images.layout(tmp_path / "both", [BASE, TOP], name="both:1.0")
    target = tmp_path / "target"
    target.mkdir()
    for source, name in ((both.source, "both:1.0"), (app.source, "app:1.0")):  # one layer: a bind
        stacker("pull", "--sync", source)
        stacker("mount", "--driver", driver, name, target)
        (record,) = stacker.store.glob("mounts/*/mount.json")
        record.write_bytes(b"")
        text = stacker.refused(8, "rm", name)
        assert f"got a damaged record of the mount at {target}\n" in text
        assert text.endswith(f"`umount {target}`\n")
        assert (target / "base").read_text() == "1"
        subprocess.run(["umount", target], check=True)
        stacker("rm", "--all")
        stacker("gc")
    stacker.assert_clean(layers=0)


@needs_root
@pytest.mark.usefixtures("alone_among_mounts")
def test_damaged_record_of_an_overlay_keeps_no_layer_of_another_image(
    stacker: Stacker, other: images.Layout, tmp_path: Path
) -> None:
    both = images.layout(tmp_path / "both", [BASE, TOP], name="both:1.0")
    alone = images.layout(tmp_path / "alone", [tar(file("alone", b"3"))], name="alone:1.0")
    target = tmp_path / "target"
    target.mkdir()
    for layout in (both, other, alone):
        stacker("pull", "--sync", layout.source)
    stacker("mount", "--driver", "overlay", "both:1.0", target)
    (record,) = stacker.store.glob("mounts/*/mount.json")
    record.write_bytes(b"{")
    stacker("rm", "alone:1.0", "other:1.0")  # `both` has the layer of `other`, too
    assert len(stacker.layers()) == 2
    assert (target / "top").read_text() == "2"
