"""Names of images: how a user writes them, and how they move."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from pathlib import Path

from tests.support import images
from tests.support.command import Stacker, conforming
from tests.support.registries import FakeRegistry
from tests.support.tars import file, tar

BASE, TOP = tar(file("base", b"1")), tar(file("top", b"2"))


def test_name_without_a_registry_is_pulled_from_the_default_registry(
    stacker: Stacker, hub: FakeRegistry, app: images.Layout
) -> None:
    stacker("copy", app.source, f"docker://{hub.host}/library/alpine:latest")
    assert stacker("pull", "alpine").last == app.image.config
    assert stacker.names() == {app.image.config: ["docker.io/library/alpine:latest"]}
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
    assert stacker.names() == {app.image.config: [f"{server.host}/team/alpine:latest"]}
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
    assert stacker.names() == {app.image.config: ["one:latest", "a.example/two:2"]}
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
    assert stacker.names() == {app.image.config: [], other.image.config: ["one:latest"]}
    assert "<none>" in stacker("images").out


def test_repeated_pull_of_a_layout_moves_its_tag_and_says_so(
    stacker: Stacker, tmp_path: Path
) -> None:
    old = images.layout(tmp_path / "A", [BASE], name="latest")
    stacker("pull", old.source)
    shutil.rmtree(old.path)
    new = images.layout(tmp_path / "A", [TOP], name="latest")
    assert "latest moved from image" in stacker("pull", new.source).err
    assert stacker.names() == {old.image.config: [], new.image.config: ["latest"]}


def test_equal_tags_of_two_layouts_do_not_collide(stacker: Stacker, tmp_path: Path) -> None:
    first = images.layout(tmp_path / "A", [BASE], name="latest")
    second = images.layout(tmp_path / "B", [TOP], name="latest")
    stacker("pull", first.source)
    stacker("pull", second.source)
    stacker("pull", second.source)
    assert stacker.names() == {first.image.config: ["latest"], second.image.config: ["B:latest"]}
    assert stacker("inspect", "B", "--json").item["image_id"] == second.image.config


def test_malformed_name_tags_nothing(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", app.source)
    for name in ("Two", "two words", "two@sha256:" + "a" * 64, "", "two\x1b"):
        stacker.refused(2, "tag", "app:1.0", "good", name)
    assert stacker.names() == {app.image.config: ["app:1.0"]}
