"""Pulls from docker-registry on loopback, and from a faulty server in this process."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import images
from tests.support.command import Stacker, at_home
from tests.support.registries import (
    PASSWORD,
    USER,
    FakeRegistry,
    Handler,
    Tokens,
    debian_registry,
    fake_registry,
    needs_registry,
    push,
    with_passwords,
)
from tests.support.tars import file, tar

LARGE = random.Random(0).randbytes(1_500_000)
LAYERS = [tar(file("a", b"1"), file("large", LARGE)), tar(file("b", b"2"))]
CREDENTIALS = f"{USER}:{PASSWORD}"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> images.Layout:
    return images.layout(tmp_path_factory.mktemp("layout") / "app", LAYERS)


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, layout: images.Layout) -> Iterator[str]:
    """Yield a registry with a password and an image."""
    root = tmp_path_factory.mktemp("locked")
    with debian_registry(root / "registry", auth=with_passwords(root)) as host:
        push(layout.source, host, "team/app:1.0", "--dest-creds", CREDENTIALS)
        yield host


@pytest.fixture
def stacker(tmp_path: Path) -> Stacker:
    """Return the command with an empty home directory."""
    return at_home(tmp_path)


def check_image(stacker: Stacker, image_id: str, tmp_path: Path) -> None:
    stacker("unpack", image_id, tmp_path / "root")
    assert (tmp_path / "root" / "large").read_bytes() == LARGE
    assert (tmp_path / "root" / "b").read_bytes() == b"2"


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
    for name in ("team/app:none", "team/none:1.0", f"team/app@sha256:{'0' * 64}"):
        assert f"{registry}/{name}" in stacker.refused(3, "pull", f"docker://{registry}/{name}")
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


@pytest.fixture
def server(layout: images.Layout) -> Iterator[FakeRegistry]:
    """Yield a server in this process with the image."""
    with fake_registry() as server:
        server.put("app", "1.0", layout.path)
        yield server


def large_layer(request: Handler) -> bytes:
    """Return the large layer if the request is for it, else no bytes."""
    data = request.registry.content.get(request.path, ("", b""))[1]
    return data if len(data) > 1_000_000 and not request.headers.get("Range") else b""


def dropped(request: Handler) -> bool:
    data = large_layer(request)
    return bool(data) and request.broken(data, 700_000)


def without_ranges(request: Handler) -> bool:
    if request.headers.get("Range"):
        return request.answer(200, request.registry.content[request.path][1])
    return dropped(request)


def busy(request: Handler) -> bool:
    return len(request.registry.asked) % 2 == 0 and request.answer(503, b"", {"Retry-After": "0"})


def limited(request: Handler) -> bool:
    return len(request.registry.asked) % 2 == 0 and request.answer(429, b"", {"Retry-After": "0"})


def cut_short(request: Handler) -> bool:
    """Respond with a shorter range than requested."""
    data = request.registry.content.get(request.path, ("", b""))[1]
    span = request.wanted(len(data))
    if span is None:
        return dropped(request)
    end = min(span[0] + 300_000, span[1])
    return request.part(span[0], end, data[span[0] : end], len(data))


def without_length(request: Handler) -> bool:
    """Omit the Content-Length, and close the connection at the end or before it."""
    if not (data := large_layer(request)):
        return False
    request.send_response(200)
    request.end_headers()
    request.wfile.write(data[:700_000])
    request.close_connection = True
    return True


@pytest.mark.parametrize(
    "quirk", [dropped, without_ranges, busy, limited, cut_short, without_length]
)
def test_pull_recovers_from_a_server_fault(
    stacker: Stacker,
    server: FakeRegistry,
    layout: images.Layout,
    tmp_path: Path,
    quirk: Callable[[Handler], bool],
) -> None:
    server.quirk = quirk
    assert stacker("pull", f"docker://{server.host}/app:1.0").last == layout.image.config
    check_image(stacker, layout.image.config, tmp_path)
    stacker.assert_clean(images=1, layers=2)


def test_blob_host_after_a_redirect_gets_no_password(
    stacker: Stacker, server: FakeRegistry, layout: images.Layout, tmp_path: Path
) -> None:
    wanted = "Basic " + base64.b64encode(CREDENTIALS.encode()).decode()
    auth = {"auth": wanted.removeprefix("Basic ")}
    (tmp_path / "auth.json").write_text(json.dumps({"auths": {server.host: auth}}))
    with fake_registry() as other:
        other.content = dict(server.content)
        other.quirk = dropped

        def quirk(request: Handler) -> bool:
            if request.headers.get("Authorization") != wanted:
                return always_401(request)
            there = {"Location": f"http://{other.host}{request.path}"}
            return "/blobs/" in request.path and request.answer(307, b"", there)

        server.quirk = quirk
        place = f"docker://{server.host}/app:1.0"
        words = ("--authfile", tmp_path / "auth.json")
        assert stacker("pull", place, *words).last == layout.image.config
        assert other.count("/blobs/") == 4  # the config, two layers, and the rest of one
        assert not any("authorization" in asked.headers for asked in other.asked)
    check_image(stacker, layout.image.config, tmp_path)


def wrong_digest(request: Handler) -> bool:
    data = large_layer(request)
    return bool(data) and request.answer(200, data[:-1] + bytes([data[-1] ^ 1]))


def wrong_length(request: Handler) -> bool:
    data = large_layer(request)
    return bool(data) and request.answer(200, data + b"x")


def always_401(request: Handler) -> bool:
    return request.answer(401, b"", {"WWW-Authenticate": 'Basic realm="tests"'})


def gone(request: Handler) -> bool:
    return bool(large_layer(request)) and request.answer(404)


def circles(request: Handler) -> bool:
    return bool(large_layer(request)) and request.answer(302, b"", {"Location": request.path})


def hanging_up(request: Handler) -> bool:
    data = request.registry.content.get(request.path, ("", b""))[1]
    return len(data) > 1_000_000 and request.broken(data, 1000)


def patient(request: Handler) -> bool:
    return request.path != "/v2/" and request.answer(429, b"", {"Retry-After": "3600"})


def huge(request: Handler) -> bool:
    return "manifests" in request.path and request.answer(200, b" " * (5 << 20))


@pytest.mark.parametrize(
    ("quirk", "code"),
    [
        (wrong_digest, 5),
        (wrong_length, 5),
        (always_401, 4),
        (gone, 3),
        (circles, 10),
        (hanging_up, 10),
        (patient, 10),
        (huge, 5),
    ],
)
def test_failed_pull_is_one_line_and_a_later_pull_completes(
    stacker: Stacker,
    server: FakeRegistry,
    layout: images.Layout,
    quirk: Callable[[Handler], bool],
    code: int,
) -> None:
    server.quirk = quirk
    place = f"docker://{server.host}/app:1.0"
    assert f"{server.host}/app" in stacker.refused(code, "pull", place) or quirk is wrong_digest
    stacker.assert_clean()
    server.quirk = lambda _: False
    assert stacker("pull", place).last == layout.image.config
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
