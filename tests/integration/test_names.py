"""Names of images: how a user writes them, and how they come and go."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import Stacker, conforming
from tests.support.registries import FakeRegistry
from tests.support.tars import file, tar

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
BASE, TOP = tar(file("base", b"1")), tar(file("top", b"2"))
HUB = """
[[registry]]
prefix = "docker.io"
location = "{host}"
"""


@pytest.fixture
def stacker(tmp_path: Path) -> Stacker:
    return Stacker(tmp_path / "store", environ={"HOME": str(tmp_path)})


@pytest.fixture
def app(tmp_path: Path) -> images.Layout:
    return images.layout(tmp_path / "app", [BASE], name="app:1.0")


@pytest.fixture
def other(tmp_path: Path) -> images.Layout:
    return images.layout(tmp_path / "other", [TOP], name="other:1.0")


@pytest.fixture
def hub(stacker: Stacker, server: FakeRegistry, tmp_path: Path) -> FakeRegistry:
    """Let a registry on loopback answer for docker.io."""
    conf = tmp_path / "registries.conf"
    conf.write_text(HUB.format(host=server.host))
    stacker.environ["CONTAINERS_REGISTRIES_CONF"] = str(conf)
    return server


def names(stacker: Stacker) -> dict[str, list[str]]:
    """Return the names of each image of the store."""
    return {item["image_id"]: item["names"] for item in stacker("images", "--json").items}


def test_name_without_a_registry_is_pulled_from_the_default_registry(
    stacker: Stacker, hub: FakeRegistry, app: images.Layout
) -> None:
    stacker("copy", app.source, f"docker://{hub.host}/library/alpine:latest")
    assert stacker("pull", "alpine").last == app.image.config
    assert names(stacker) == {app.image.config: ["docker.io/library/alpine:latest"]}
    for text in (
        "alpine",
        "alpine:latest",
        "library/alpine",
        "docker://alpine",
        "docker.io/alpine",
    ):
        assert stacker("inspect", text, "--json").item["image_id"] == app.image.config
    assert "alpine:3.19" in stacker.refused(3, "inspect", "alpine:3.19")
    stacker.run("tags", "alpine")
    assert any("/library/alpine/tags/list" in asked.path for asked in hub.asked)


def test_registries_conf_has_precedence_over_the_default_registry(
    stacker: Stacker, server: FakeRegistry, app: images.Layout, tmp_path: Path
) -> None:
    conf = tmp_path / "registries.conf"
    conf.write_text(f'[aliases]\nalpine = "{server.host}/team/alpine"\n')
    stacker.environ["CONTAINERS_REGISTRIES_CONF"] = str(conf)
    stacker("copy", app.source, f"docker://{server.host}/team/alpine:latest")
    stacker("pull", "alpine")
    assert names(stacker) == {app.image.config: [f"{server.host}/team/alpine:latest"]}
    assert stacker("inspect", "alpine", "--json").item["image_id"] == app.image.config


def test_path_without_a_transport_has_a_hint_with_the_right_one(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    archive, docker = tmp_path / "a.tar", tmp_path / "docker.tar"
    compressed, notes = tmp_path / "c.tar.gz", tmp_path / "notes.tar"
    subprocess.run(["tar", "-C", app.path, "-cf", archive, "."], check=True)
    docker.write_bytes(tar(file("0" * 64 + ".json", b"{}"), file("manifest.json", b"[]")))
    compressed.write_bytes(gzip.compress(archive.read_bytes()))
    notes.write_bytes(tar(file("notes", b"")))
    for path, source in (
        (app.path, f"oci:{app.path}"),
        (archive, f"oci-archive:{archive}"),
        (docker, f"docker-archive:{docker}"),
        (compressed, f"oci-archive:{compressed}"),
    ):
        assert f"write {source}\n" in stacker.refused(2, "pull", path)
    assert "neither an image layout" in stacker.refused(2, "pull", notes)
    assert "neither an image layout" in stacker.refused(2, "pull", "./missing")
    assert "write oci-archive:a.tar" in stacker.run("pull", "a.tar", cwd=tmp_path).err


def test_destination_without_a_transport_is_in_a_registry_or_has_a_hint(
    stacker: Stacker, server: FakeRegistry, app: images.Layout
) -> None:
    stacker("copy", app.source, f"{server.host}/app:1")
    stacker("pull", f"{server.host}/app:1", "--name", "app:1")
    stacker("push", "app:1", f"{server.host}/team/app")
    stacker("index", "create", "both", "app:1")
    stacker("index", "push", "both", f"{server.host}/both")
    asked = {(asked.method, asked.path) for asked in server.asked}
    for path in ("app/manifests/1", "team/app/manifests/latest", "both/manifests/latest"):
        assert ("PUT", f"/v2/{path}") in asked
    assert "write oci-archive:out.tar\n" in stacker.refused(2, "push", "app:1", "out.tar")
    assert "write oci:./out\n" in stacker.refused(2, "copy", app.source, "./out")
    for text in ("ocy:./out", "ocy:/out"):
        assert "unknown transport" in stacker.refused(2, "push", "app:1", text)
        assert "unknown transport" in stacker.refused(2, "pull", text)


def test_pull_names_the_image_as_told(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", app.source, "--name", "one", "--name", "a.example/two:2")
    assert names(stacker) == {app.image.config: ["one:latest", "a.example/two:2"]}
    stacker.refused(2, "pull", app.source, "--name", "One")


def test_name_that_moves_to_another_image_is_reported(
    stacker: Stacker, app: images.Layout, other: images.Layout
) -> None:
    stacker("pull", app.source, "--name", "one")
    done = stacker("pull", other.source, "--name", "one", "--json")
    (moved,) = conforming(done.last_document)["item"]["moved"]
    assert moved == {"name": "one:latest", "from": app.image.config}
    text = stacker("tag", app.image.config, "one").err
    assert f"one:latest moved from image {other.image.config[7:19]}" in text
    document = conforming(stacker("tag", other.image.config, "one", "--json").document)
    assert document["item"] == {
        "image_id": other.image.config,
        "moved": [{"name": "one:latest", "from": app.image.config}],
    }
    assert names(stacker) == {app.image.config: [], other.image.config: ["one:latest"]}
    assert "<none>" in stacker("images").out


def test_repeated_pull_of_a_layout_moves_its_tag_and_says_so(
    stacker: Stacker, tmp_path: Path
) -> None:
    old = images.layout(tmp_path / "A", [BASE], name="latest")
    stacker("pull", old.source)
    shutil.rmtree(old.path)
    new = images.layout(tmp_path / "A", [TOP], name="latest")
    assert "latest moved from image" in stacker("pull", new.source).err
    assert names(stacker) == {old.image.config: [], new.image.config: ["latest"]}


def test_equal_tags_of_two_layouts_do_not_collide(stacker: Stacker, tmp_path: Path) -> None:
    first = images.layout(tmp_path / "A", [BASE], name="latest")
    second = images.layout(tmp_path / "B", [TOP], name="latest")
    stacker("pull", first.source)
    stacker("pull", second.source)
    stacker("pull", second.source)
    assert names(stacker) == {first.image.config: ["latest"], second.image.config: ["B:latest"]}
    assert stacker("inspect", "B", "--json").item["image_id"] == second.image.config


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
    assert names(stacker) == {app.image.config: ["app:1.0"]}
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
    assert names(stacker) == {app.image.config: ["app:1.0", "two:latest"]}
    document = conforming(stacker("untag", "two", "app:1.0", "--json").document)
    assert [item["name"] for item in document["items"]] == ["two:latest", "app:1.0"]
    assert names(stacker) == {app.image.config: []}
    assert stacker("inspect", app.source, "--json").item["image_id"] == app.image.config
    stacker.refused(3, "inspect", "app:1.0")
    stacker("tag", app.image.config, "back")
    assert names(stacker) == {app.image.config: ["back:latest"]}


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


def test_unpack_pulls_a_source_that_the_store_lacks(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    done = stacker("unpack", app.source, tmp_path / "root", "--json")
    assert done.item["image_id"] == app.image.config
    assert (tmp_path / "root" / "base").read_text() == "1"
    assert names(stacker) == {app.image.config: ["app:1.0"]}
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
    assert names(stacker) == {app.image.config: ["docker.io/library/app:latest"]}
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


def test_malformed_name_tags_nothing(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", app.source)
    for name in ("Two", "two words", "two@sha256:" + "a" * 64, "", "two\x1b"):
        stacker.refused(2, "tag", "app:1.0", "good", name)
    assert names(stacker) == {app.image.config: ["app:1.0"]}


def test_images_are_filtered(stacker: Stacker, app: images.Layout, other: images.Layout) -> None:
    stacker("pull", app.source)
    stacker("pull", other.source)
    stacker("untag", "other:1.0")
    one, two = app.image.config, other.image.config
    for words, found in (
        (["name=app:*"], [one]),
        (["dangling=true"], [two]),
        (["dangling=false"], [one]),
        (["platform=linux/amd64"], [one, two]),
        (["platform=linux/amd64", "dangling=true"], [two]),
        (["platform=linux/s390x"], []),
        (["label=none"], []),
    ):
        options = [word for text in words for word in ("--filter", text)]
        assert stacker("images", "-q", *options).out.split() == found
    for text in ("name", "name=", "dangling=maybe", "colour=red"):
        assert "malformed filter" in stacker.refused(2, "images", "--filter", text)


def test_images_are_filtered_by_label(stacker: Stacker, tmp_path: Path) -> None:
    def labelled(config: dict[str, object]) -> None:
        config["config"] = {"Labels": {"tier": "web"}}

    image = images.layout(tmp_path / "l", [BASE], config=labelled)
    stacker("pull", image.source)
    assert stacker("images", "-q", "--filter", "label=tier").last == image.image.config
    assert stacker("images", "-q", "--filter", "label=tier=web").last == image.image.config
    assert stacker("images", "-q", "--filter", "label=tier=db").out == ""


def test_lists_are_printed_by_a_template(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", app.source)
    done = stacker("images", "--format", r"{names[0]}\t{bytes[total]}")
    assert done.out == "app:1.0\t1\n"
    assert stacker("layers", "app:1.0", "--format", "{diff_id}").last == app.image.diff_ids[0]
    assert stacker("history", "app:1.0", "--format", "{diff_id}").last == app.image.diff_ids[0]
    assert stacker("mounts", "--format", "{target}").out == ""
    stacker("index", "create", "both", "app:1.0")
    assert stacker("index", "list", "--format", "{name}").out == "both\n"
    text = stacker.refused(2, "images", "--format", "{size}")
    assert "unknown field 'size'" in text
    assert "image_id" in text
    assert "malformed template" in stacker.refused(2, "images", "--format", "{")


def test_list_of_images_is_what_other_programs_read(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", "--keep-blobs", app.source)
    stacker("tag", "app:1.0", "two")
    entries = json.loads((stacker.store / "index.json").read_bytes())["manifests"]
    assert {entry["digest"] for entry in entries} == {app.image.manifest}
