"""Credentials and TLS options for one side of a copy, with the words of skopeo."""

from __future__ import annotations

import shutil
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import images
from tests.support.certificates import Authority, needs_openssl
from tests.support.command import Stacker, at_home
from tests.support.registries import (
    PASSWORD,
    USER,
    FakeRegistry,
    Handler,
    debian_registry,
    fake_registry,
    log_in,
    needs_registry,
    with_passwords,
)
from tests.support.tars import file, tar

LOGIN = f"{USER}:{PASSWORD}"


def challenge(asked: Handler) -> bool:
    """Answer a request without credentials."""
    if "Authorization" in asked.headers:
        return False
    return asked.answer(401, b"{}", {"WWW-Authenticate": 'Basic realm="tests"'})


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield a registry with a password."""
    root = tmp_path_factory.mktemp("locked")
    with debian_registry(root / "registry", auth=with_passwords(root)) as host:
        yield host


@pytest.fixture
def layout(tmp_path: Path) -> images.Layout:
    return images.layout(tmp_path / "layout", [tar(file("a", b"1"))])


@pytest.fixture
def server(layout: images.Layout) -> Iterator[FakeRegistry]:
    """Yield an open registry with the image ``app:1.0``."""
    with fake_registry() as registry:
        registry.put("app", "1.0", layout.path)
        yield registry


@pytest.fixture
def stacker(tmp_path: Path) -> Stacker:
    return at_home(tmp_path)


@needs_registry
def test_credentials_of_one_side_are_sent_to_that_side_only(
    stacker: Stacker, locked: str, server: FakeRegistry, layout: images.Layout, tmp_path: Path
) -> None:
    place, opened = f"docker://{locked}/sides:1.0", f"docker://{server.host}/app:1.0"
    server.quirk = challenge
    stacker.refused(4, "copy", "--dest-creds", LOGIN, opened, place)
    assert not any("authorization" in asked.headers for asked in server.asked)
    server.quirk = lambda _: False
    stacker.refused(4, "copy", opened, place)
    assert stacker("copy", "--dest-creds", LOGIN, opened, place).last == layout.image.manifest
    stacker.refused(4, "copy", place, f"oci:{tmp_path}/copy")
    stacker.refused(4, "copy", "--dest-creds", LOGIN, place, f"oci:{tmp_path}/copy")
    stacker("copy", "--src-creds", LOGIN, place, f"oci:{tmp_path}/copy")


@needs_registry
def test_wrong_credentials_are_refused_without_the_password(
    stacker: Stacker, locked: str, layout: images.Layout
) -> None:
    place = f"docker://{locked}/wrong:1.0"
    words = ("copy", "--dest-creds", f"{USER}:not-the-word", layout.source, place)
    assert "not-the-word" not in stacker.refused(4, *words)


@needs_registry
def test_authfile_of_one_side_and_no_credentials(
    stacker: Stacker, locked: str, layout: images.Layout, tmp_path: Path
) -> None:
    place, path = f"docker://{locked}/files:1.0", tmp_path / "auth.json"
    assert log_in(stacker, locked, "--authfile", path).code == 0
    copied = ("copy", layout.source, place)
    stacker.refused(4, *copied, "--src-authfile", path)
    stacker(*copied, "--dest-authfile", path)
    stacker.refused(4, *copied, "--authfile", path, "--dest-no-creds")
    stacker(*copied, "--authfile", path, "--src-no-creds")
    assert "--dest-no-creds" in stacker.refused(2, *copied, "--dest-no-creds", "--dest-creds", "a")


def test_credentials_are_not_sent_to_a_mirror_on_another_host(
    stacker: Stacker, server: FakeRegistry, layout: images.Layout, tmp_path: Path
) -> None:
    with fake_registry() as mirror:
        mirror.put("app", "1.0", layout.path)
        for registry in (mirror, server):
            registry.quirk = challenge
        conf = tmp_path / "registries.conf"
        conf.write_text(
            f'[[registry]]\nlocation = "{server.host}"\n'
            f'[[registry.mirror]]\nlocation = "{mirror.host}"\ninsecure = true\n'
        )
        place = f"docker://{server.host}/app:1.0"
        words = ("copy", "--src-creds", LOGIN, "--registries-conf", conf, place)
        stacker(*words, f"oci:{tmp_path}/copy")
        assert mirror.asked
        assert not any("authorization" in asked.headers for asked in mirror.asked)
    sent = {asked.headers.get("authorization") for asked in server.asked} - {None}
    assert sent == {f"Basic {b64encode(LOGIN.encode()).decode()}"}


@needs_openssl
def test_tls_options_of_one_side(stacker: Stacker, layout: images.Layout, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    (tmp_path / "certs").mkdir()
    shutil.copy(authority.certificate, tmp_path / "certs")
    with fake_registry(tls=authority.context("IP:127.0.0.1")) as registry:
        registry.put("app", "1.0", layout.path)
        copied = ("copy", f"docker://{registry.host}/app:1.0", f"oci:{tmp_path}/copy")
        stacker.refused(10, *copied)
        stacker.refused(10, *copied, "--dest-tls-verify=false")
        stacker.refused(10, *copied, "--tls-verify=false", "--src-tls-verify=true")
        stacker(*copied, "--src-tls-verify=false")
        stacker.refused(10, *copied, "--dest-cert-dir", tmp_path / "certs")
        stacker(*copied, "--src-cert-dir", tmp_path / "certs")
