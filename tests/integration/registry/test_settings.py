"""registries.conf, certificates and proxies apply to pushes and to every other verb."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import images, schema1
from tests.support.certificates import Authority, needs_openssl
from tests.support.command import Stacker, conforming
from tests.support.proxies import fake_proxy
from tests.support.registries import FakeRegistry, fake_registry, log_in
from tests.support.tars import file, tar

NAME = "docker://registry.example/team/app:1.0"
MOVED = """
[[registry]]
prefix = "registry.example/team"
location = "{home}/real"
[[registry.mirror]]
location = "{mirror}/mirror"
[[registry]]
location = "bad.example"
blocked = true
[aliases]
short = "registry.example/team/app"
"""


@pytest.fixture
def layout(tmp_path: Path) -> images.Layout:
    return images.layout(tmp_path / "layout", [tar(file("a", b"1" * 1000))])


@pytest.fixture
def mirror() -> Iterator[FakeRegistry]:
    with fake_registry() as server:
        yield server


@pytest.fixture
def stacker(tmp_path: Path) -> Stacker:
    environ = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"), "")
    return Stacker(
        tmp_path / "store",
        environ={
            **environ,
            "HOME": str(tmp_path / "home"),
            "REGISTRY_AUTH_FILE": str(tmp_path / "auth.json"),
        },
    )


@pytest.fixture
def moved(stacker: Stacker, server: FakeRegistry, mirror: FakeRegistry, tmp_path: Path) -> None:
    """Configure a location and a mirror for registry.example/team."""
    conf = tmp_path / "registries.conf"
    conf.write_text(MOVED.format(home=server.host, mirror=mirror.host))
    stacker.environ["CONTAINERS_REGISTRIES_CONF"] = str(conf)


@pytest.mark.usefixtures("moved")
def test_push_goes_to_the_location_and_to_no_mirror(
    stacker: Stacker, server: FakeRegistry, mirror: FakeRegistry, layout: images.Layout
) -> None:
    stacker("pull", layout.source, "--keep-blobs")
    assert stacker("push", "app:1.0", NAME).last == layout.image.manifest
    assert "/v2/real/app/manifests/1.0" in server.content
    assert not mirror.asked
    stacker("copy", layout.source, NAME.replace("app", "copy"))
    assert "/v2/real/copy/manifests/1.0" in server.content
    assert not mirror.asked
    assert stacker("copy", NAME, layout.source.replace("1.0", "back")).last == layout.image.manifest
    assert mirror.asked  # pulls use it


@pytest.mark.usefixtures("moved")
def test_blob_is_mounted_from_the_location_of_a_name(
    stacker: Stacker, server: FakeRegistry, layout: images.Layout
) -> None:
    server.put("real/app", "1.0", layout.path)
    stacker("copy", NAME, "docker://registry.example/team/other:1.0")
    begun = [one.path for one in server.asked if one.method == "POST"]
    assert begun
    assert all("from=real%2Fapp" in path for path in begun)


@pytest.mark.usefixtures("moved")
def test_tags_are_listed_by_the_registry_not_by_a_mirror(
    stacker: Stacker, server: FakeRegistry, mirror: FakeRegistry
) -> None:
    answer = json.dumps({"name": "real/app", "tags": ["1.0"]}).encode()
    server.content["/v2/real/app/tags/list"] = ("application/json", answer)
    server.quirk = lambda request: (
        request.path.startswith("/v2/real/app/tags/list") and request.answer(200, answer)
    )
    for name in ("registry.example/team/app", "short"):
        assert stacker("tags", f"docker://{name}").out == "1.0\n"
    assert not mirror.asked


@pytest.mark.usefixtures("moved")
def test_index_members_are_recorded_with_full_names(
    stacker: Stacker, server: FakeRegistry, layout: images.Layout
) -> None:
    server.put("real/app", "1.0", layout.path)
    stacker("index", "create", "many", "docker://short:1.0")
    (member,) = stacker("index", "inspect", "many", "--json").document["item"]["members"]
    wanted = f"docker://registry.example/team/app@{layout.image.manifest}"
    assert member["origin"] == wanted


@pytest.mark.usefixtures("moved")
def test_blocked_registry_gets_no_request(stacker: Stacker, layout: images.Layout) -> None:
    stacker("pull", layout.source)
    place = "docker://bad.example/app:1.0"
    for words in (
        ("push", "app:1.0", place),
        ("copy", layout.source, place),
        ("copy", place, layout.source),
        ("tags", place.removesuffix(":1.0")),
        ("index", "create", "many", place),
    ):
        assert "blocked" in stacker.refused(2, *words)
    done = log_in(stacker, "bad.example")
    assert (done.code, "blocked" in done.err) == (2, True)


@needs_openssl
def test_every_verb_uses_certificates_and_proxies(
    stacker: Stacker, layout: images.Layout, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "authority")
    certificates = tmp_path / "certs"
    certificates.mkdir()
    shutil.copy(authority.certificate, certificates)
    stacker("pull", layout.source, "--keep-blobs")
    context = authority.context("IP:127.0.0.1,DNS:registry.example")
    with fake_registry(tls=context) as server, fake_proxy() as proxy:
        proxy.routes = {"registry.example:443": server.host}
        stacker.environ["HTTPS_PROXY"] = proxy.host
        answer = json.dumps({"name": "team/app", "tags": ["1.0"]}).encode()
        server.quirk = lambda request: "/tags/list" in request.path and request.answer(200, answer)
        trust = ("--cert-dir", certificates)
        assert "--cert-dir" in stacker.refused(10, "push", "app:1.0", NAME)
        stacker("push", "app:1.0", NAME, *trust)
        assert "/v2/team/app/manifests/1.0" in server.content
        assert stacker("tags", NAME.removesuffix(":1.0"), *trust).out == "1.0\n"
        stacker("bench", NAME, "--runs", "1", *trust)
        proxy.asked.clear()
        assert log_in(stacker, "registry.example").code == 10
        assert log_in(stacker, "registry.example", *trust).code == 0
        assert proxy.asked


def test_foreign_layer_is_omitted_from_a_push_with_a_warning(
    stacker: Stacker, server: FakeRegistry, tmp_path: Path
) -> None:
    url = "https://layers.example/far"

    def foreign(document: dict[str, Any]) -> None:
        document["layers"][0]["mediaType"] = (
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        )
        document["layers"][0]["urls"] = [url]

    layers = [tar(file("far", b"1" * 1000)), tar(file("near", b"2" * 1000))]
    layout = images.layout(tmp_path / "foreign", layers, manifest=foreign)
    far, near = layout.image.layers
    stacker("pull", layout.source, "--keep-blobs")
    for number, words in enumerate((("push", "app:1.0"), ("copy", "--all", layout.source))):
        done = stacker(*words, f"docker://{server.host}/app{number}:1.0")
        assert done.last == layout.image.manifest
        assert far in done.err
        assert url in done.err
        assert f"/v2/app{number}/blobs/{far}" not in server.content
        assert f"/v2/app{number}/blobs/{near}" in server.content
    out = stacker(*words, f"docker://{server.host}/app2:1.0", "--json").out
    document = json.loads(out.splitlines()[-1])
    conforming(document)
    assert document["item"]["left"] == [{"digest": far, "urls": [url]}]


@pytest.fixture
def old(server: FakeRegistry) -> str:
    """Return the location of an image of schema 1."""
    steps = [schema1.step(images.compressed(tar(file("a", b"1")), "gzip"), "one")]
    kind = "application/vnd.docker.distribution.manifest.v1+json"
    server.content["/v2/old/manifests/1.0"] = (kind, schema1.manifest(steps))
    for one in steps:
        server.content[f"/v2/old/blobs/{one.digest}"] = ("application/x", one.blob)
    return f"docker://{server.host}/old:1.0"


def test_copy_of_schema_1_is_refused_with_a_hint(
    stacker: Stacker, server: FakeRegistry, old: str
) -> None:
    target = f"docker://{server.host}/new:1.0"
    for words in (
        ("copy", old, target),
        ("copy", "--all", old, target),
        ("copy", "--platform", "linux/amd64", old, target),
        ("index", "create", "many", old),
    ):
        said = stacker.refused(7, *words)
        assert "schemaVersion: got 1" in said
        assert f"`stacker --store {stacker.store} pull` from a registry converts it" in said
    pulled = stacker("pull", old).last
    stacker("push", pulled, target)
    assert stacker("pull", target).last == pulled


def test_bench_measures_an_image_of_schema_1(stacker: Stacker, old: str) -> None:
    document = stacker("bench", "--runs", "1", "--json", old).document
    conforming(document)
    (layer,) = document["item"]["layers"]
    assert layer["entries"] == 1
