"""Connections through proxies, and with private CAs and client certificates."""

from __future__ import annotations

import shutil
import socket
import ssl
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stacker.errors import NetworkError, StackerError, UsageError
from stacker.registry.http.certificates import CertificateDirectories, Certificates, read_directory
from stacker.registry.http.proxies import Proxies
from stacker.registry.http.session import HttpSession
from stacker.registry.settings import RegistryAccess, Timeouts
from tests.support.certificates import Authority, needs_openssl
from tests.support.proxies import FakeProxy, fake_proxy
from tests.support.registries import FakeRegistry, fake_registry

TIMEOUTS = Timeouts(connect=5, read=5, attempts=2, sleep=lambda _: None)
SECURE = "https://registry.example/v2/"
PLAIN = "http://registry.example/v2/"

pytestmark = needs_openssl


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture(scope="module")
def secure(authority: Authority) -> Iterator[FakeRegistry]:
    subjects = "IP:127.0.0.1,DNS:registry.example,DNS:proxy.example"
    with fake_registry(tls=authority.context(subjects)) as server:
        yield server


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    with fake_registry() as server:
        yield server


@pytest.fixture
def proxy(server: FakeRegistry, secure: FakeRegistry) -> Iterator[FakeProxy]:
    """Yield a proxy that leads registry.example to one server for HTTP, to another for HTTPS."""
    with fake_proxy() as proxy:
        proxy.routes = {"registry.example:80": server.host, "registry.example:443": secure.host}
        yield proxy


@pytest.fixture
def trust(authority: Authority, tmp_path: Path) -> CertificateDirectories:
    (tmp_path / "certs").mkdir()
    shutil.copy(authority.certificate, tmp_path / "certs" / "any-name.crt")
    return CertificateDirectories(str(tmp_path / "certs"))


@contextmanager
def exchange(
    trust: CertificateDirectories | None = None,
    proxies: Proxies | None = None,
    *,
    insecure: bool = False,
) -> Iterator[HttpSession]:
    access = RegistryAccess(
        insecure=insecure,
        timeouts=TIMEOUTS,
        certificates=trust or CertificateDirectories(),
        proxies=proxies or Proxies(),
    )
    exchange = HttpSession(access, "registry.example/app")
    try:
        yield exchange
    finally:
        exchange.close()


def status(
    url: str, *words: CertificateDirectories | Proxies | None, insecure: bool = False
) -> int:
    with exchange(*words, insecure=insecure) as asking:  # type: ignore[arg-type]
        answer = asking.get(url, {})
        answer.read_all(1000)
        return answer.status


def refused(
    kind: type[StackerError], url: str, *words: CertificateDirectories | Proxies | None
) -> str:
    with pytest.raises(kind) as caught:
        status(url, *words)
    assert caught.value.message.isprintable()
    return caught.value.message


# Proxies


def through(proxy: FakeProxy, no_proxy: str = "", login: str = "") -> Proxies:
    url = f"http://{login}{proxy.host}"
    return Proxies.parse(url, url, no_proxy)


def test_https_goes_through_a_tunnel(proxy: FakeProxy, trust: CertificateDirectories) -> None:
    assert status(SECURE, trust, through(proxy)) == 200
    assert [line.split()[:2] for line in proxy.asked] == [["CONNECT", "registry.example:443"]]


def test_tunnelled_certificate_is_verified(proxy: FakeProxy) -> None:
    assert "certificate" in refused(NetworkError, SECURE, None, through(proxy)).lower()
    assert status(SECURE, None, through(proxy), insecure=True) == 200


def test_plain_http_request_goes_through_the_proxy(proxy: FakeProxy) -> None:
    assert status(PLAIN, None, through(proxy), insecure=True) == 200
    assert proxy.asked == [f"GET {PLAIN} HTTP/1.1"]
    proxy.asked.clear()
    refused(NetworkError, PLAIN, None, through(proxy))  # plain HTTP to another machine
    assert not proxy.asked


def test_no_proxy_host_bypasses_the_proxy(proxy: FakeProxy, server: FakeRegistry) -> None:
    assert status(f"http://{server.host}/v2/", None, through(proxy)) == 200
    refused(NetworkError, "https://10.255.255.1.invalid/", None, through(proxy, "*"))
    assert not proxy.asked


def test_proxy_password_is_sent(proxy: FakeProxy, trust: CertificateDirectories) -> None:
    proxy.password = "Basic " + b64encode(b"me:pass/word").decode()
    assert status(SECURE, trust, through(proxy, login="me:pass%2Fword@")) == 200
    assert status(PLAIN, trust, through(proxy, login="me:pass%2Fword@"), insecure=True) == 200
    message = refused(NetworkError, SECURE, trust, through(proxy, login="me:wrong@"))
    assert "the proxy gave status 407" in message
    assert "wrong@" not in message


def test_proxy_failures_are_named_as_the_proxy_s(
    proxy: FakeProxy, trust: CertificateDirectories
) -> None:
    gone = Proxies.parse("", "http://127.0.0.1:1", "")
    assert "the proxy: " in refused(NetworkError, SECURE, trust, gone)
    message = refused(NetworkError, "https://other.example/", trust, through(proxy))
    assert "the proxy gave status 502" in message


# Certificates


def test_private_ca_is_trusted(secure: FakeRegistry, trust: CertificateDirectories) -> None:
    url = f"https://{secure.host}/v2/"
    assert "certificate" in refused(NetworkError, url).lower()
    assert status(url, trust) == 200


@pytest.mark.parametrize("name", ["{host}", "other"])
def test_each_host_has_its_directory(
    secure: FakeRegistry, authority: Authority, tmp_path: Path, name: str
) -> None:
    own = tmp_path / "certs.d" / name.format(host=secure.host)
    own.mkdir(parents=True)
    shutil.copy(authority.certificate, own / "ca.crt")
    trust = CertificateDirectories(per_host=(str(tmp_path / "none"), str(tmp_path / "certs.d")))
    url = f"https://{secure.host}/v2/"
    if name == "other":
        refused(NetworkError, url, trust)
    else:
        assert status(url, trust) == 200


def test_port_443_need_not_be_named(tmp_path: Path) -> None:
    (tmp_path / "registry.example").mkdir()
    (tmp_path / "registry.example" / "a.crt").touch()
    (tmp_path / "[fd00::1]:5000").mkdir()
    (tmp_path / "[fd00::1]:5000" / "b.crt").touch()
    trust = CertificateDirectories(per_host=(str(tmp_path),))
    found = trust.certificates_for("registry.example", 443, is_registry=True)
    assert found == Certificates((str(tmp_path / "registry.example" / "a.crt"),))
    assert trust.certificates_for("registry.example", 5000, is_registry=True) == Certificates()
    assert trust.certificates_for("fd00::1", 5000, is_registry=True).authorities


def test_client_certificate_goes_to_the_registry_only(
    authority: Authority, trust: CertificateDirectories
) -> None:
    certificate, key = authority.sign("client", "DNS:client.example")
    with fake_registry(tls=authority.context("IP:127.0.0.1", wants_ours=True)) as server:
        url = f"https://{server.host}/v2/"
        refused(NetworkError, url, trust)
        shutil.copy(certificate, Path(trust.directory) / "me.cert")
        shutil.copy(key, Path(trust.directory) / "me.key")
        assert status(url, trust) == 200
    assert trust.certificates_for("registry.example", 443, is_registry=True).pairs
    assert not trust.certificates_for("elsewhere.example", 443, is_registry=False).pairs


def test_redirect_target_does_not_get_the_client_certificate(
    authority: Authority, trust: CertificateDirectories, tmp_path: Path
) -> None:
    for one, name in zip(authority.sign("own", "DNS:c.example"), ("cert", "key"), strict=True):
        shutil.copy(one, Path(trust.directory) / f"me.{name}")
    strict = authority.context("DNS:elsewhere.example", wants_ours=True)
    with (
        fake_registry(tls=authority.context("DNS:registry.example", wants_ours=True)) as first,
        fake_registry(tls=strict) as second,
        fake_proxy() as proxy,
    ):
        proxy.routes = {"registry.example:443": first.host, "elsewhere.example:443": second.host}
        place = {"Location": "https://elsewhere.example/v2/"}
        first.quirk = lambda request: request.path == "/away" and request.answer(307, b"", place)
        assert status(SECURE, trust, through(proxy)) == 200
        refused(NetworkError, "https://registry.example/away", trust, through(proxy))
        assert not second.asked


def test_incomplete_or_malformed_certificate_is_an_error(
    secure: FakeRegistry, trust: CertificateDirectories
) -> None:
    directory = Path(trust.directory)
    url = f"https://{secure.host}/v2/"
    (directory / "bad.crt").write_text("nonsense")
    assert "bad.crt" in refused(UsageError, url, trust)
    (directory / "bad.crt").unlink()
    for name, other in (("x.cert", "x.key"), ("x.key", "x.cert")):
        (directory / name).write_text("nonsense")
        assert other in refused(UsageError, url, trust)
        (directory / name).unlink()
    for name in ("x.cert", "x.key"):
        (directory / name).write_text("nonsense")
    assert "x.cert" in refused(UsageError, url, trust)


def test_certificates_of_the_tests_satisfy_strict_verification(
    authority: Authority, secure: FakeRegistry
) -> None:
    """Python 3.13 sets VERIFY_X509_STRICT by default."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    host, _, port = secure.host.partition(":")
    with (
        socket.create_connection((host, int(port))) as plain,
        context.wrap_socket(plain, server_hostname=host) as encrypted,
    ):
        assert encrypted.getpeercert()


def test_missing_certificate_directory_is_empty(tmp_path: Path) -> None:
    assert read_directory(str(tmp_path / "none")) == Certificates()
