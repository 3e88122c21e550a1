"""Names that are removed, and mounts that end by one command."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import Stacker, conforming

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


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
