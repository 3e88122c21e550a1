"""Pulls through a proxy and past an authority of one's own, by the environment and by options."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import images
from tests.support.certificates import Authority, needs_openssl
from tests.support.command import Stacker
from tests.support.proxies import fake_proxy
from tests.support.registries import FakeRegistry, fake_registry
from tests.support.tars import file, tar

pytestmark = needs_openssl


@pytest.fixture
def layout(tmp_path: Path) -> images.Layout:
    return images.layout(tmp_path / "layout", [tar(file("a", b"1"))])


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def server(authority: Authority, layout: images.Layout) -> Iterator[FakeRegistry]:
    context = authority.context("IP:127.0.0.1,DNS:registry.example")
    with fake_registry(tls=context) as server:
        server.put("app", "1.0", layout.path)
        yield server


@pytest.fixture
def stacker(tmp_path: Path) -> Stacker:
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"), "")
    return Stacker(tmp_path / "store", environ={"HOME": str(tmp_path / "home"), **proxies})


def test_an_authority_is_named_in_any_of_the_usual_ways(
    stacker: Stacker, server: FakeRegistry, authority: Authority, tmp_path: Path
) -> None:
    place = f"docker://{server.host}/app:1.0"
    assert "--cert-dir" in stacker.refused(10, "pull", place)
    assert "no such directory" in stacker.refused(3, "pull", place, "--cert-dir", tmp_path / "no")
    (tmp_path / "certs").mkdir()
    shutil.copy(authority.certificate, tmp_path / "certs")
    stacker("pull", place, "--cert-dir", tmp_path / "certs")
    stacker("pull", place, "--tls-verify=false")
    own = tmp_path / "home" / ".config" / "containers" / "certs.d" / server.host
    own.mkdir(parents=True)
    shutil.copy(authority.certificate, own)
    stacker("pull", place)
    shutil.rmtree(own)
    stacker.environ["SSL_CERT_FILE"] = str(authority.certificate)
    stacker("pull", place)


def test_the_environment_names_a_proxy(
    stacker: Stacker, server: FakeRegistry, authority: Authority, layout: images.Layout
) -> None:
    stacker.environ["SSL_CERT_FILE"] = str(authority.certificate)
    with fake_proxy() as proxy:
        proxy.routes = {"registry.example:443": server.host}
        stacker.environ["HTTPS_PROXY"] = proxy.host
        pulled = stacker("pull", "docker://registry.example/app:1.0").last
        assert pulled == layout.image.config
        assert len(proxy.asked) >= 2  # the conductor's connection, and a worker's
        proxy.asked.clear()
        stacker("pull", f"docker://{server.host}/app:1.0")  # this machine
        assert not proxy.asked
    stacker.environ["HTTPS_PROXY"] = "socks5://me:secret@proxy.example"
    said = stacker.refused(7, "pull", "docker://registry.example/app:1.0")
    assert "socks5" in said
    assert "secret" not in said
    stacker("pull", layout.source)
