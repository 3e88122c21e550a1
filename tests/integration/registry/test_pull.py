"""Pull from a registry: Debian's docker-registry, and one with tokens."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import images
from tests.support.command import Stacker
from tests.support.registries import (
    PASSWORD,
    USER,
    FakeRegistry,
    Tokens,
    debian_registry,
    fake_registry,
    needs_registry,
    push,
    with_passwords,
)
from tests.support.registry_images import CREDENTIALS, LAYERS, check_image
from tests.support.tars import file, tar


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, layout: images.Layout) -> Iterator[str]:
    """Yield a registry with a password and an image."""
    root = tmp_path_factory.mktemp("locked")
    with debian_registry(root / "registry", auth=with_passwords(root)) as host:
        push(layout.source, host, "team/app:1.0", "--dest-creds", CREDENTIALS)
        yield host


@needs_registry
@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_pulled_image_equals_the_pushed_one(
    stacker: Stacker, registry: str, layout: images.Layout, tmp_path: Path, form: str
) -> None:
    name = f"team/{form}:1.0"
    push(layout.source, registry, name, "--format", form)
    pulled = stacker("pull", f"docker://{registry}/{name}").last
    if form == "oci":
        assert pulled == layout.image.config
    check_image(stacker, pulled, tmp_path)
    (image,) = stacker("images", "--json").items
    assert image["names"] == [f"{registry}/{name}"]
    assert stacker("inspect", f"{registry}/{name}", "--json").item["image_id"] == pulled
    stacker.assert_clean(images=1, layers=2)


@needs_registry
def test_each_platform_selects_its_image_of_an_index(
    stacker: Stacker, registry: str, tmp_path: Path
) -> None:
    platforms = [("linux", "amd64"), ("linux", "arm64")]
    layout = images.several(
        tmp_path / "both", [(p, [tar(file("on", p[1].encode()))]) for p in platforms]
    )
    push(layout.source, registry, "both:1.0", "--all")
    for image, (system, architecture) in zip(layout.images, platforms, strict=True):
        wanted = f"{system}/{architecture}"
        pulled = stacker("pull", f"docker://{registry}/both:1.0", "--platform", wanted).last
        assert pulled == image.config
    stacker.refused(3, "pull", f"docker://{registry}/both:1.0", "--platform", "linux/s390x")


@needs_registry
def test_image_is_pulled_by_digest(stacker: Stacker, registry: str, layout: images.Layout) -> None:
    push(layout.source, registry, "team/app:by-digest", "--preserve-digests")
    name = f"{registry}/team/app@{layout.image.manifest}"
    assert stacker("pull", f"docker://{name}").last == layout.image.config
    assert stacker("images", "--json").items[0]["names"] == [name]


@needs_registry
def test_missing_image_is_one_line(stacker: Stacker, registry: str, layout: images.Layout) -> None:
    push(layout.source, registry, "team/app:1.0")
    for repository, target in (
        ("team/app", ":none"),
        ("team/none", ":1.0"),
        ("team/app", f"@sha256:{'0' * 64}"),
    ):
        text = stacker.refused(3, "pull", f"docker://{registry}/{repository}{target}")
        assert f"{registry}/{repository}: " in text
        assert target[1:] in text
    stacker.assert_clean(layers=0)


@needs_registry
def test_missing_password_is_an_error(stacker: Stacker, locked: str) -> None:
    words = stacker.refused(4, "pull", f"docker://{locked}/team/app:1.0")
    assert f"{locked}/team/app" in words
    assert "--authfile" in words


@needs_registry
@pytest.mark.parametrize("how", ["--authfile", "REGISTRY_AUTH_FILE", "runtime", "docker"])
def test_password_saved_by_skopeo_is_used(
    stacker: Stacker, locked: str, tmp_path: Path, how: str
) -> None:
    path = {
        "runtime": tmp_path / "containers" / "auth.json",
        "docker": tmp_path / "home" / ".docker" / "config.json",
    }.get(how, tmp_path / "mine.json")
    path.parent.mkdir(exist_ok=True)
    subprocess.run(
        [
            *("skopeo", "login", "--tls-verify=false", "--authfile", path),
            *("-u", USER, "-p", PASSWORD, locked),
        ],
        check=True,
        capture_output=True,
    )
    options = [how, str(path)] if how == "--authfile" else []
    if how == "REGISTRY_AUTH_FILE":
        stacker.environ[how] = str(path)
    result = stacker("pull", f"docker://{locked}/team/app:1.0", "--verbose", *options)
    assert PASSWORD not in result.out + result.err
    stacker.assert_clean(images=1, layers=2)


@needs_registry
def test_wrong_password_is_refused_and_not_printed(
    stacker: Stacker, locked: str, tmp_path: Path
) -> None:
    auth = base64.b64encode(b"opener:not-the-word").decode()
    (tmp_path / "mine.json").write_text(json.dumps({"auths": {locked: {"auth": auth}}}))
    words = stacker.refused(
        4, "pull", f"docker://{locked}/team/app:1.0", "--authfile", tmp_path / "mine.json"
    )
    assert "not-the-word" not in words
    assert auth not in words


@needs_registry
@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_token_is_requested_from_the_registry_s_token_server(
    stacker: Stacker, layout: images.Layout, tmp_path: Path
) -> None:
    with fake_registry() as server:
        tokens = Tokens(tmp_path, server)
        with debian_registry(tmp_path / "registry", auth=tokens.auth) as host:
            push(layout.source, host, "team/app:1.0", "--dest-creds", CREDENTIALS)
            tokens.given = 0
            place = f"docker://{host}/team/app:1.0"
            stacker.refused(4, "pull", place)
            auth = base64.b64encode(CREDENTIALS.encode()).decode()
            (tmp_path / "mine.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
            stacker("pull", place, "--authfile", tmp_path / "mine.json")
    # Workers get the token of the main process.
    assert tokens.given == 1
    stacker.assert_clean(images=1, layers=2)


def test_second_pull_requests_only_the_manifest(stacker: Stacker, server: FakeRegistry) -> None:
    stacker("pull", f"docker://{server.host}/app:1.0")
    assert server.count("/blobs/") == 3
    server.asked.clear()
    stacker("pull", f"docker://{server.host}/app:1.0")
    assert server.count("/manifests/") == 1
    assert server.count("/blobs/") <= 1


def test_other_sources_do_not_load_the_http_library(
    stacker: Stacker, layout: images.Layout
) -> None:
    script = (
        "import sys; from stacker.cli import main; main(sys.argv[1:]); "
        "sys.exit('urllib3' in sys.modules)"
    )
    words = stacker.words("pull", layout.source)
    done = subprocess.run(
        [words[0], "-c", script, *words[3:]],
        check=False,
        env={**os.environ, **stacker.environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_registries_conf_maps_a_name_to_its_location(
    stacker: Stacker, server: FakeRegistry, layout: images.Layout, tmp_path: Path
) -> None:
    conf = tmp_path / "registries.conf"
    conf.write_text(
        '[aliases]\nshort = "registry.example/team/app"\n[[registry]]\n'
        f'prefix = "registry.example/team"\nlocation = "{server.host}"\n'
        '[[registry.mirror]]\nlocation = "127.0.0.1:1"\n'
        '[[registry]]\nlocation = "bad.example"\nblocked = true\n'
    )
    words = ("--registries-conf", conf)
    assert stacker("pull", "docker://short:1.0", *words).last == layout.image.config
    (image,) = stacker("images", "--json").items
    assert image["names"] == ["registry.example/team/app:1.0"]
    assert "blocked" in stacker.refused(2, "pull", "docker://bad.example/app", *words)
    stacker.environ["CONTAINERS_REGISTRIES_CONF"] = str(conf)
    assert stacker("pull", "docker://short:1.0").last == layout.image.config
    conf.write_text("nonsense")
    assert str(conf) in stacker.refused(2, "pull", "docker://short:1.0")
    stacker("pull", layout.source)  # needs no registry


def test_allowed_foreign_layer_comes_from_its_url(stacker: Stacker, tmp_path: Path) -> None:
    with fake_registry() as server, fake_registry() as elsewhere:

        def foreign(document: dict[str, Any]) -> None:
            layer = document["layers"][0]
            layer["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
            layer["urls"] = [f"http://{elsewhere.host}/{layer['digest']}"]

        layout = images.layout(tmp_path / "foreign", LAYERS, manifest=foreign)
        server.put("app", "1.0", layout.path)
        digest = layout.image.layers[0]
        elsewhere.content[f"/{digest}"] = server.content.pop(f"/v2/app/blobs/{digest}")
        place = f"docker://{server.host}/app:1.0"
        assert "--allow-foreign" in stacker.refused(3, "pull", place)
        assert not elsewhere.asked
        assert stacker("pull", place, "--allow-foreign").last == layout.image.config
    check_image(stacker, layout.image.config, tmp_path)


def test_progress_reports_bytes_and_entries_of_each_layer(
    stacker: Stacker, server: FakeRegistry, layout: images.Layout
) -> None:
    out = stacker("pull", f"docker://{server.host}/app:1.0", "--json").out
    events = [json.loads(line) for line in out.splitlines()]
    last = {e["diff_id"]: e for e in events if e["kind"] == "layer-progress"}
    assert [last[diff_id]["entries"] for diff_id in layout.image.diff_ids] == [2, 1]
    for blob, diff_id in zip(layout.image.layers, layout.image.diff_ids, strict=True):
        event = last[diff_id]
        assert event["blob"] == blob
        assert event["done"] == event["total"] == layout.blob(blob).stat().st_size
