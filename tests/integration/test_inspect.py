"""Inspect an image in a registry, a layout or an archive without pulling it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import Stacker, at_home, conforming
from tests.support.registries import FakeRegistry
from tests.support.tars import file, tar

BASE, TOP = tar(file("base", b"1")), tar(file("top", b"2"))
AMD64, ARM64 = ("linux", "amd64"), ("linux", "arm64")


@pytest.fixture
def stacker(tmp_path: Path) -> Stacker:
    return at_home(tmp_path)


@pytest.fixture
def app(tmp_path: Path) -> images.Layout:
    return images.layout(tmp_path / "app", [BASE, TOP])


@pytest.fixture
def both(tmp_path: Path) -> images.Layout:
    """Return a layout with an index for two platforms."""
    return images.several(tmp_path / "both", [(AMD64, [BASE]), (ARM64, [TOP])])


def documents(layout: images.Layout) -> tuple[bytes, bytes]:
    """Return the manifest and the config of the only image."""
    return tuple(  # type: ignore[return-value]
        layout.blob(digest).read_bytes() for digest in (layout.image.manifest, layout.image.config)
    )


def test_image_of_a_registry_is_shown_without_a_pull(
    stacker: Stacker, server: FakeRegistry, app: images.Layout
) -> None:
    server.put("app", "1.0", app.path)
    source = f"docker://{server.host}/app:1.0"
    item = conforming(stacker("inspect", source, "--json").document)["item"]
    assert item["image_id"] == app.image.config
    assert item["manifest"]["digest"] == app.image.manifest
    assert item["layers"] == list(app.image.diff_ids)
    assert [blob["digest"] for blob in item["blobs"]] == list(app.image.layers)
    assert item["config"]["cmd"] == ["/bin/sh"]
    assert (item["names"], item["entries"]) == ([f"{server.host}/app:1.0"], [])
    text = stacker("inspect", source).out
    for word in (app.image.config, app.image.manifest, "linux/amd64", "/bin/sh", "2, "):
        assert word in text
    assert not server.count("/blobs/" + app.image.layers[0])
    assert not stacker.store.exists()


def test_layout_and_archives_are_shown_without_a_pull(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    archive = tmp_path / "app.tar"
    with tarfile.open(archive, "w") as written:
        written.add(app.path, ".")
    for source in (app.source, f"{app.source}:app:1.0", f"oci-archive:{archive}"):
        assert stacker("inspect", source, "--json").item["image_id"] == app.image.config
    assert not stacker.store.exists()
    stacker.refused(3, "inspect", f"{app.source}:2.0")
    stacker.refused(3, "inspect", "oci:/nowhere")
    stacker.refused(2, "inspect", "ocy:./app")


def test_source_is_shown_as_it_is_now_although_an_older_image_was_pulled(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", app.source)
    (tmp_path / "app").rename(tmp_path / "old")
    new = images.layout(tmp_path / "app", [TOP])
    assert stacker("inspect", app.source, "--json").item["image_id"] == new.image.config
    assert stacker("inspect", "app:1.0", "--json").item["image_id"] == app.image.config


@pytest.mark.parametrize("where", ["registry", "layout", "store"])
def test_raw_and_config_print_the_documents_byte_for_byte(
    stacker: Stacker, server: FakeRegistry, app: images.Layout, where: str
) -> None:
    server.put("app", "1.0", app.path)
    stacker("pull", app.source)
    image = {
        "registry": f"docker://{server.host}/app:1.0",
        "layout": app.source,
        "store": "app:1.0",
    }[where]
    for option, content in zip(("--raw", "--config"), documents(app), strict=True):
        assert stacker("inspect", option, image).out.encode() == content
        assert stacker("inspect", option, "--json", image).out.encode() == content
    stacker.refused(2, "inspect", "--raw", "--config", image)


def test_index_lists_its_platforms_and_gives_the_image_for_one(
    stacker: Stacker, server: FakeRegistry, both: images.Layout
) -> None:
    server.put("app", "1.0", both.path)
    first, second = both.images
    (entry,) = json.loads((both.path / "index.json").read_bytes())["manifests"]
    for source in (both.source, f"docker://{server.host}/app:1.0"):
        text = stacker("inspect", source).out
        assert "linux/amd64, linux/arm64" in text
        item = conforming(stacker("inspect", "--json", "--platform", "arm64", source).document)
        assert item["item"]["image_id"] == second.config
        assert item["item"]["root"]["digest"] == entry["digest"]
        assert [each["digest"] for each in item["item"]["entries"]] == [
            first.manifest,
            second.manifest,
        ]
        assert stacker("inspect", "--raw", source).out.encode() == (
            both.blob(entry["digest"]).read_bytes()
        )
        raw = stacker("inspect", "--raw", "--platform", "arm64", source)
        assert raw.out.encode() == both.blob(second.manifest).read_bytes()
        assert "s390x" in stacker.refused(3, "inspect", "--platform", "s390x", source)


def test_platform_of_an_image_in_the_store_is_a_usage_error(
    stacker: Stacker, app: images.Layout
) -> None:
    stacker("pull", app.source)
    assert "no transport" in stacker.refused(2, "inspect", "--platform", "arm64", "app:1.0")


def test_missing_image_of_a_registry_is_not_found(stacker: Stacker, server: FakeRegistry) -> None:
    stacker.refused(3, "inspect", f"docker://{server.host}/app:1.0")


def test_document_that_differs_from_its_digest_is_not_printed(
    stacker: Stacker, app: images.Layout
) -> None:
    app.blob(app.image.config).write_bytes(b"{}")
    for option in ("--config", "--json"):
        stacker.refused(5, "inspect", option, app.source)


def test_control_characters_of_a_document_are_escaped_on_a_terminal(
    stacker: Stacker, server: FakeRegistry, app: images.Layout
) -> None:
    manifest, _ = documents(app)
    named = manifest.replace(b'{"schema', b'{"annotations": {"a": "\x7f"}, "schema', 1)
    server.content["/v2/app/manifests/1.0"] = (images.MANIFEST, named)
    person, terminal = pty.openpty()
    command = subprocess.Popen(
        stacker.words("inspect", "--raw", f"docker://{server.host}/app:1.0"),
        stdout=terminal,
        env=stacker.environment,
    )
    os.close(terminal)
    assert command.wait() == 0
    seen = os.read(person, 1 << 16).decode().replace("\r\n", "")
    os.close(person)
    assert r"\x7f" in seen
    assert seen.isprintable()
