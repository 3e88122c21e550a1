"""Pushes to a real registry on loopback, to layouts and to archives."""

from __future__ import annotations

import base64
import json
import os
import pty
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import Stacker, at_home, conforming
from tests.support.pushes import LAYERS, events, inspect
from tests.support.registries import (
    PASSWORD,
    USER,
    Tokens,
    debian_registry,
    fake_registry,
    needs_registry,
    push,
    with_passwords,
)
from tests.support.tars import dir as folder
from tests.support.tars import file, tar
from tests.support.unprivileged import UNPRIVILEGED, startable_python


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> images.Layout:
    return images.layout(tmp_path_factory.mktemp("layout") / "app", LAYERS)


@pytest.fixture
def other(tmp_path: Path) -> Stacker:
    """Return the command with another store."""
    return at_home(tmp_path, "other")


def config_of(stacker: Stacker, image: str) -> bytes:
    return images.blob_path(stacker.store, image).read_bytes()


@needs_registry
@pytest.mark.parametrize("keep", [True, False], ids=["blobs kept", "from skeletons"])
def test_pushed_image_can_be_pulled(
    stacker: Stacker, other: Stacker, registry: str, layout: images.Layout, keep: bool
) -> None:
    image = stacker("pull", layout.source, *(["--keep-blobs"] if keep else [])).last
    place = f"docker://{registry}/round/{keep}:1.0".lower()
    digest = stacker("push", image, place).last
    assert (digest == layout.image.manifest) is keep
    assert inspect(place)["Digest"] == digest
    assert other("pull", place).last == image
    assert config_of(stacker, image) == config_of(other, image)
    assert {p.name for p in stacker.layers()} == {p.name for p in other.layers()}
    stacker.assert_clean(images=1, layers=2)


@needs_registry
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_skopeo_copies_a_pushed_image(
    stacker: Stacker, registry: str, layout: images.Layout, tmp_path: Path, compression: str
) -> None:
    image = stacker("pull", layout.source).last
    place = f"docker://{registry}/skopeo/{compression}:1.0"
    digest = stacker("push", image, place, "--compression", compression).last
    again = stacker("push", image, f"oci:{tmp_path}/again", "--compression", compression).last
    assert again == digest  # a blob contains no time of its creation
    raw = inspect("--raw", place)
    assert raw["config"]["digest"] == image
    assert {layer["mediaType"].rpartition("+")[2] for layer in raw["layers"]} == {compression}
    copy = ["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false"]
    subprocess.run([*copy, place, f"oci:{tmp_path}/back:1.0"], check=True, capture_output=True)
    (entry,) = json.loads((tmp_path / "back" / "index.json").read_bytes())["manifests"]
    assert entry["digest"] == digest


@needs_registry
def test_docker_manifest_becomes_oci_only_if_a_layer_is_packed(
    stacker: Stacker, registry: str, layout: images.Layout, tmp_path: Path
) -> None:
    push(layout.source, registry, "form/docker:1.0", "--format", "v2s2")
    source = f"docker://{registry}/form/docker:1.0"
    image = stacker("pull", source, "--keep-blobs").last
    assert stacker("push", image, f"oci:{tmp_path}/same").last == inspect(source)["Digest"]
    small = inspect("--raw", source)["layers"][1]["digest"]
    large = inspect("--raw", source)["layers"][0]["digest"]
    images.blob_path(stacker.store, large).unlink()
    stacker("push", image, f"oci:{tmp_path}/other", "--compression", "zstd")
    made = inspect("--raw", f"oci:{tmp_path}/other")
    assert made["mediaType"] == images.MANIFEST
    assert (made["config"]["digest"], made["config"]["mediaType"]) == (image, images.CONFIG)
    kinds = [(layer["mediaType"], layer["digest"] == small) for layer in made["layers"]]
    assert kinds == [(f"{images.LAYER}+zstd", False), (f"{images.LAYER}+gzip", True)]
    assert stacker("pull", f"oci:{tmp_path}/other").last == image


def test_image_without_layers_is_pushed(stacker: Stacker, tmp_path: Path) -> None:
    empty = images.layout(tmp_path / "app", [])
    stacker("pull", empty.source)
    assert stacker("push", "app:1.0", f"oci:{tmp_path}/out").last == empty.image.manifest


def test_bars_are_drawn_on_a_terminal(
    stacker: Stacker, layout: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", layout.source)
    controller, terminal = pty.openpty()
    done = subprocess.Popen(
        stacker.words("push", "app:1.0", f"oci:{tmp_path}/out"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=terminal,
        env=stacker.environment,
    )
    os.close(terminal)
    seen = b""
    with suppress(OSError):  # EIO when the other end is closed
        while data := os.read(controller, 10_000):
            seen += data
    os.close(controller)
    assert done.stdout is not None
    assert done.stdout.read().startswith(b"sha256:")
    done.stdout.close()
    assert done.wait() == 0
    assert b"packing 2 layers" in seen
    assert b"sending 3 blobs" in seen


@needs_registry
def test_second_push_sends_no_blob(stacker: Stacker, registry: str, layout: images.Layout) -> None:
    stacker("pull", layout.source, "--keep-blobs")
    first, second = (
        events(stacker("push", "app:1.0", f"docker://{registry}/twice:1.0", "--json").out)
        for _ in range(2)
    )
    assert first[-1]["item"]["blobs"] == {"sent": 3}
    assert second[-1]["item"]["blobs"] == {"present": 3}
    assert first[-1]["item"]["digest"] == layout.image.manifest
    kinds = {event["kind"] for event in first}
    assert kinds == {"layers-to-pack", "blobs-found", "blob-progress", "blob-arrived", "push"}


@needs_registry
def test_blobs_of_another_repository_are_mounted(
    stacker: Stacker, registry: str, layout: images.Layout
) -> None:
    push(layout.source, registry, "from/here:1.0", "--preserve-digests")
    stacker("pull", f"docker://{registry}/from/here:1.0")
    place = f"docker://{registry}/to/there:1.0"
    pushed = stacker("push", f"{registry}/from/here:1.0", place, "--json")
    item = events(pushed.out)[-1]["item"]
    # The check for original blobs mounted both layers; the config is mounted later.
    assert item["original"] is True
    assert item["digest"] == layout.image.manifest
    assert item["blobs"] == {"present": 2, "mounted": 1}
    assert inspect(place)["Digest"] == layout.image.manifest


@needs_registry
@pytest.mark.parametrize("form", ["oci", "oci-archive"])
def test_pushed_files_are_read_by_skopeo_and_stacker(
    stacker: Stacker, other: Stacker, layout: images.Layout, tmp_path: Path, form: str
) -> None:
    stacker("pull", layout.source, "--keep-blobs")
    place = f"{form}:{tmp_path}/out:app:2.0"
    assert stacker("push", "app:1.0", place).last == layout.image.manifest
    assert inspect("--raw", place)["config"]["digest"] == layout.image.config
    assert other("pull", place).last == layout.image.config
    if form == "oci-archive":
        before = (tmp_path / "out").read_bytes()
        assert "file exists" in stacker.refused(2, "push", "app:1.0", place)
        assert (tmp_path / "out").read_bytes() == before


def test_layout_keeps_its_other_images(stacker: Stacker, tmp_path: Path) -> None:
    one = images.layout(tmp_path / "one", [tar(file("a", b"1"))], name="app:1.0")
    two = images.layout(tmp_path / "two", [tar(file("a", b"2"))], name="app:2.0")
    for source in (one, two):
        stacker("pull", source.source, "--keep-blobs")
    for name, target in (("app:1.0", "x"), ("app:2.0", "y"), ("app:2.0", "x")):
        stacker("push", name, f"oci:{tmp_path}/out:{target}")
    entries = json.loads((tmp_path / "out" / "index.json").read_bytes())["manifests"]
    named = {e.get("annotations", {}).get(images.REF_NAME): e["digest"] for e in entries}
    assert named == {None: one.image.manifest, "y": two.image.manifest, "x": two.image.manifest}


def test_directory_with_other_files_is_refused(
    stacker: Stacker, layout: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", layout.source)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    stacker.refused(2, "push", "app:1.0", f"oci:{tmp_path}/mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter"]


def test_layer_that_changed_on_disk_is_not_pushed(
    stacker: Stacker, layout: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", layout.source)
    (changed,) = [path for path in stacker.layers() if (path / "diff" / "b").exists()]
    before = (changed / "diff" / "b").stat()
    (changed / "diff" / "b").write_bytes(b"3" * 100_000)
    words = stacker.refused(5, "push", "app:1.0", f"oci-archive:{tmp_path}/out.tar")
    assert "/b: mtime: got " in words
    os.utime(changed / "diff" / "b", ns=(before.st_atime_ns, before.st_mtime_ns))
    words = stacker.refused(5, "push", "app:1.0", f"oci-archive:{tmp_path}/out.tar")
    assert "wrong digest" in words
    assert not (tmp_path / "out.tar").exists()
    stacker.assert_clean(images=1, layers=2)


@needs_registry
def test_push_with_a_password(stacker: Stacker, layout: images.Layout, tmp_path: Path) -> None:
    stacker("pull", layout.source)
    with debian_registry(tmp_path / "registry", auth=with_passwords(tmp_path)) as host:
        place = f"docker://{host}/team/app:1.0"
        stacker.refused(4, "push", "app:1.0", place)
        auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        (tmp_path / "mine.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
        digest = stacker("push", "app:1.0", place, "--authfile", tmp_path / "mine.json").last
        assert inspect("--creds", f"{USER}:{PASSWORD}", place)["Digest"] == digest


@needs_registry
@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_push_and_mount_with_one_token(
    stacker: Stacker, layout: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", layout.source, "--keep-blobs")
    with fake_registry() as server:
        tokens = Tokens(tmp_path, server)
        with debian_registry(tmp_path / "registry", auth=tokens.auth) as host:
            auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            mine = tmp_path / "mine.json"
            mine.write_text(json.dumps({"auths": {host: {"auth": auth}}}))
            one, two = (f"docker://{host}/team/{name}:1.0" for name in ("one", "two"))
            stacker.refused(4, "push", "app:1.0", one)
            stacker("push", "app:1.0", one, "--authfile", mine, "--jobs", "1")
            # The first request, which asks for a blob, already asks for the token.
            assert tokens.scopes == [["repository:team/one:pull,push"]]
            copied = stacker("copy", one, two, "--authfile", mine, "--jobs", "1", "--json")
    assert events(copied.out)[-1]["item"]["blobs"] == {"mounted": 3}
    assert {"repository:team/one:pull", "repository:team/two:pull,push"} <= {
        scope for scopes in tokens.scopes for scope in scopes
    }


@needs_registry
def test_tags_are_listed(stacker: Stacker, registry: str, layout: images.Layout) -> None:
    for tag in ("1.0", "1.1", "latest"):
        push(layout.source, registry, f"tags/app:{tag}")
    place = f"docker://{registry}/tags/app"
    assert sorted(stacker("tags", place).out.split()) == ["1.0", "1.1", "latest"]
    document = stacker("tags", place, "--json").document
    conforming(document)
    assert {item["name"] for item in document["items"]} == {"1.0", "1.1", "latest"}
    stacker.refused(3, "tags", f"docker://{registry}/tags/none")
    assert stacker("tags", f"{registry}/tags/app").out == stacker("tags", place).out


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change to another user")
def test_unprivileged_push_has_the_same_digest(stacker: Stacker) -> None:
    """The blob has the owners and modes of the image, not those of the files in the store."""
    place = Path(tempfile.mkdtemp(prefix="stacker-test-"))
    try:
        python = startable_python()
        if python is None:
            pytest.skip("no interpreter that an unprivileged user can start")
        entries = [file("a", b"1", uid=5, gid=6, mode=0o4755), folder("d/", uid=7, mode=0o700)]
        app = images.layout(place / "app", [tar(*entries, file("d/b", b"2"))])
        for path in (place, *place.rglob("*")):
            os.chown(path, 65534, 65534)
        unprivileged = Stacker(place / "store", wrap=UNPRIVILEGED, python=python)
        unprivileged("pull", app.source, cwd=place)
        digest = unprivileged("push", "app:1.0", f"oci:{place}/out", cwd=place).last
        stacker("pull", app.source)
        assert stacker("push", "app:1.0", f"oci:{stacker.store}-out").last == digest
    finally:
        shutil.rmtree(place)
