"""Connection failures and registry errors are explained in plain words."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from urllib3 import exceptions

from stacker.errors import NetworkError
from stacker.registry.client import status_error
from stacker.registry.http.certificates import CertificateDirectories
from stacker.registry.http.failures import is_certificate, reason
from stacker.registry.http.session import HttpSession
from stacker.registry.settings import RegistryAccess, Timeouts
from tests.support.certificates import Authority, needs_openssl
from tests.support.registries import FakeRegistry, fake_registry

TIMEOUTS = Timeouts(connect=5, read=5, attempts=1, sleep=lambda _: None)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    with fake_registry() as server:
        yield server


def failure(host: str, trust: CertificateDirectories | None = None) -> NetworkError:
    access = RegistryAccess(timeouts=TIMEOUTS, certificates=trust or CertificateDirectories())
    with closing(HttpSession(access, "app")) as exchange, pytest.raises(NetworkError) as caught:
        exchange.get(f"https://{host}/v2/", {})
    return caught.value


@needs_openssl
def test_unknown_ca_is_named_with_the_option_that_adds_one(authority: Authority) -> None:
    with fake_registry(tls=authority.context("IP:127.0.0.1")) as server:
        error = failure(server.host)
    assert error.message.endswith("app: its certificate is not signed by a trusted CA")
    assert error.hint is not None
    assert "--cert-dir" in error.hint


@needs_openssl
@pytest.mark.parametrize("subject", ["DNS:other.example", "IP:127.0.0.2"])
def test_certificate_of_another_host_is_named(authority: Authority, subject: str) -> None:
    trust = CertificateDirectories(str(authority.root / f"trusted-{subject[:2]}"))
    Path(trust.directory).mkdir()
    (Path(trust.directory) / "ca.crt").write_bytes(authority.certificate.read_bytes())
    with fake_registry(tls=authority.context(subject)) as server:
        error = failure(server.host, trust)
    assert "its certificate is for another " in error.message


def test_server_without_tls_is_named(server: FakeRegistry) -> None:
    assert failure(server.host).message.endswith("the server does not speak TLS on this port")


def test_refused_connection_is_named() -> None:
    assert failure("127.0.0.1:1").message.endswith("app: Connection refused")


def tls(cause: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {cause}] text of openssl (_ssl.c:992)")
    error.reason = cause
    return error


def wrapped(error: Exception) -> Exception:
    return exceptions.SSLError(error)


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "the server requires a client certificate"),
        ("UNSUPPORTED_PROTOCOL", "client and server have no TLS version in common"),
        ("SOMETHING_NEW", "TLS failed (something new)"),
        ("", "TLS failed (no reason)"),
    ],
)
def test_tls_error_is_explained_without_the_library_s_text(cause: str, words: str) -> None:
    assert reason(wrapped(tls(cause))) == words
    assert not is_certificate(wrapped(tls(cause)))


@pytest.mark.parametrize("code", [9, 10, 18, 19, 20, 21, 62, 64, 99])
def test_certificate_error_is_explained_without_the_library_s_text(code: int) -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed (_ssl.c:992)")
    error.verify_code = code
    assert reason(wrapped(error)).startswith("its certificate ")
    assert is_certificate(wrapped(error))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (exceptions.ReadTimeoutError(None, "/?secret", "slow"), "no data arrived in time"),  # type: ignore[arg-type]
        (exceptions.ConnectTimeoutError(), "the connection timed out"),
        (exceptions.IncompleteRead(1, 2), "the body ended early"),
        (exceptions.ProtocolError("Connection aborted."), "the server closed the connection"),
        (
            exceptions.ProxyError("x", OSError(113, "No route to host")),
            "the proxy: No route to host",
        ),
        (OSError("Tunnel connection failed: 407 no"), "the proxy gave status 407"),
    ],
)
def test_connection_error_is_explained_without_the_library_s_text(
    error: Exception, words: str
) -> None:
    assert reason(error) == words


def answer(status: int, *codes: Any) -> Any:
    body = json.dumps({"errors": [{"code": code} for code in codes]}).encode()
    return SimpleNamespace(status=status, redirected=False, drain=lambda: body)


def test_error_codes_of_a_registry_are_explained() -> None:
    error = status_error(
        answer(404, "MANIFEST_UNKNOWN", "MANIFEST_UNKNOWN", "NAME_UNKNOWN"), "app:1"
    )
    assert error.message == (
        "not found: app:1: got status 404 (no such manifest, no such repository), want 200"
    )


def test_unknown_error_code_is_quoted() -> None:
    error = status_error(answer(500, "ODD\x1b[31m", 7), "app:1")
    assert error.message == (
        r"registry failed: app:1: got status 500 (error code 'ODD\x1b[31m'), want 200"
    )
