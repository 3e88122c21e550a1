"""Names of images that are missing from the store, or older than their source."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import Stacker
from tests.support.registries import FakeRegistry
from tests.support.tars import file, tar

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
BASE, TOP = tar(file("base", b"1")), tar(file("top", b"2"))


def test_unpack_pulls_a_source_that_the_store_lacks(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    done = stacker("unpack", app.source, tmp_path / "root", "--json")
    assert done.item["image_id"] == app.image.config
    assert (tmp_path / "root" / "base").read_text() == "1"
    assert stacker.names() == {app.image.config: ["app:1.0"]}
    shutil.rmtree(app.path)  # the default policy pulls only a missing image
    stacker("unpack", app.source, tmp_path / "second")


def test_policy_never_does_not_pull(stacker: Stacker, app: images.Layout, tmp_path: Path) -> None:
    stacker.refused(3, "unpack", "--pull", "never", app.source, tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_image_id_is_never_pulled(stacker: Stacker, app: images.Layout, tmp_path: Path) -> None:
    for text in (app.image.config, app.image.config[7:], "abc"):
        assert "no such image" in stacker.refused(3, "unpack", text, tmp_path / "root")
        stacker.refused(2, "unpack", "--pull", "always", text, tmp_path / "root")


def test_unknown_name_is_pulled_from_its_registry(
    stacker: Stacker, hub: FakeRegistry, app: images.Layout, tmp_path: Path
) -> None:
    stacker("copy", app.source, f"docker://{hub.host}/library/app:latest")
    stacker("unpack", "app", tmp_path / "root")
    assert stacker.names() == {app.image.config: ["docker.io/library/app:latest"]}
    text = stacker.refused(3, "unpack", "none", tmp_path / "none")
    assert "the store has no image 'none' either" in text


def test_policies_always_and_newer_see_a_changed_source(stacker: Stacker, tmp_path: Path) -> None:
    old = images.layout(tmp_path / "A", [BASE], name="app:1")
    stacker("pull", old.source)
    for number, policy in enumerate(("always", "newer")):
        shutil.rmtree(old.path)
        new = images.layout(tmp_path / "A", [tar(file("new", b"%d" % number))], name="app:1")
        tree = tmp_path / policy
        stacker("unpack", "--pull", "missing", old.source, tmp_path / f"missing-{number}")
        done = stacker("unpack", "--pull", policy, old.source, tree, "--json")
        assert done.item["image_id"] == new.image.config
        assert (tree / "new").read_text() == str(number)


def test_policy_newer_uses_the_stored_image_if_the_source_is_gone(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", app.source)
    shutil.rmtree(app.path)
    stacker.refused(3, "unpack", "--pull", "always", app.source, tmp_path / "always")
    done = stacker("unpack", "--pull", "newer", app.source, tmp_path / "newer")
    assert "used the image in the store" in done.err
    assert (tmp_path / "newer" / "base").exists()


@needs_root
@pytest.mark.usefixtures("alone_among_mounts")
def test_mount_of_a_source_is_one_command_and_can_be_repeated(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    stacker("umount", "--idempotent", target)
    first = stacker("mount", "--json", app.source, target).item
    assert (target / "base").read_text() == "1"
    assert str(target) in stacker.refused(9, "mount", "app:1.0", target)
    again = stacker("mount", "--json", "--idempotent", "app:1.0", target).item
    assert (again["id"], again["driver"]) == (first["id"], first["driver"])
    stacker.refused(9, "mount", "--idempotent", "--rw", "app:1.0", target)
    assert len(stacker("mounts", "--json").items) == 1
    stacker("umount", "--idempotent", target)
    stacker("umount", "--idempotent", target)
    stacker.refused(3, "umount", target)
