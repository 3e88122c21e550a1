"""Passwords, tokens and certificates of a registry."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

from stacker.errors import (
    AuthenticationError,
    NetworkError,
)
from tests.support.registries import PASSWORD, USER, FakeRegistry, Handler, fake_registry
from tests.support.registry_images import opened, read_everything, refused

BASIC = "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode()


def credentials(tmp_path: Path, server: FakeRegistry, **entry: str) -> Path:
    """Write a credential file for the registry, and return its path."""
    if not entry:
        entry = {"auth": b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
    path = tmp_path / "auth.json"
    path.write_text(json.dumps({"auths": {server.host: entry}}))
    return path


def demanding(challenge: str, *wanted: str) -> Callable[[Handler], bool]:
    """Make the registry accept only requests with one of the `wanted` headers."""

    def quirk(request: Handler) -> bool:
        if request.path.startswith("/token") or request.headers.get("Authorization") in wanted:
            return False
        request.answer(401, b'{"errors": []}', {"WWW-Authenticate": challenge})
        return True

    return quirk


def test_password_is_accepted(server: FakeRegistry, tmp_path: Path) -> None:
    server.quirk = demanding('Basic realm="tests"', BASIC)
    with opened(server, "app:1.0", credentials(tmp_path, server)) as source:
        read_everything(source)
    # The token is requested once, with the first request about the repository.
    assert sum("authorization" not in asked.headers for asked in server.asked) == 2


def test_no_password_is_an_error_with_a_hint(server: FakeRegistry) -> None:
    server.quirk = demanding('Basic realm="tests"', BASIC)
    error = refused(AuthenticationError, server)
    assert "authentication required" in error.message
    assert "--authfile" in (error.hint or "")


def test_a_wrong_password_ends_at_once(server: FakeRegistry, tmp_path: Path) -> None:
    server.quirk = demanding('Basic realm="tests"')
    error = refused(AuthenticationError, server, "app:1.0", credentials(tmp_path, server))
    assert "credentials refused: " in error.message
    assert server.count("manifests") == 2


@pytest.mark.parametrize("challenge", ["", "Negotiate", 'Digest realm="x"'])
def test_unsupported_authentication_scheme_is_an_error(
    server: FakeRegistry, challenge: str
) -> None:
    server.quirk = demanding(challenge)
    assert "unsupported authentication" in refused(AuthenticationError, server).message


def test_status_403_is_access_denied(server: FakeRegistry) -> None:
    server.quirk = lambda request: "manifests" in request.path and request.answer(403)
    assert "access denied" in refused(AuthenticationError, server).message


class Tokens:
    """A token server that issues numbered tokens; the registry accepts the latest ones."""

    def __init__(self, server: FakeRegistry, *, wants: str = "", field: str = "token") -> None:
        self.server = server
        self.wants = wants
        self.field = field
        self.uses = 1000
        self.given = 0
        self.scope = ',scope="repository:app:pull"'
        server.quirk = self.quirk

    def quirk(self, request: Handler) -> bool:
        if request.path.startswith("/token"):
            self.give(request)
            return True
        self.uses -= 1
        if self.uses < 0 or request.headers.get("Authorization") != f"Bearer t{self.given}":
            self.uses = 1000
            realm = f"http://{self.server.host}/token"
            challenge = f'Bearer realm="{realm}",service="tests"{self.scope}'
            request.answer(401, b"", {"WWW-Authenticate": challenge})
            return True
        return False

    def give(self, request: Handler) -> bool:
        if request.headers.get("Authorization", "") != self.wants:
            return request.answer(401)
        self.given += 1
        return request.answer(200, json.dumps({self.field: f"t{self.given}"}).encode())

    def asked(self) -> list[dict[str, str]]:
        """Return the queries of all token requests."""
        return [
            dict(parse_qsl(urlsplit(asked.path).query or asked.body.decode()))
            for asked in self.server.asked
            if asked.path.startswith("/token")
        ]


@pytest.mark.parametrize("field", ["token", "access_token"])
def test_anonymous_token_is_requested(server: FakeRegistry, field: str) -> None:
    tokens = Tokens(server, field=field)
    with opened(server) as source:
        read_everything(source)
    assert tokens.asked() == [{"service": "tests", "scope": "repository:app:pull"}]


def test_token_scope_defaults_to_pulling_the_repository(
    server: FakeRegistry,
) -> None:
    tokens = Tokens(server)
    tokens.scope = ""
    with opened(server):
        assert tokens.asked() == [{"service": "tests", "scope": "repository:app:pull"}]


def test_token_is_requested_with_a_password(server: FakeRegistry, tmp_path: Path) -> None:
    Tokens(server, wants=BASIC)
    with opened(server, "app:1.0", credentials(tmp_path, server)) as source:
        read_everything(source)
    bearers = [a for a in server.asked if not a.path.startswith("/token")]
    assert BASIC not in {asked.headers.get("authorization") for asked in bearers}


def test_token_is_requested_with_an_identity_token(server: FakeRegistry, tmp_path: Path) -> None:
    tokens = Tokens(server, field="access_token")
    with opened(server, "app:1.0", credentials(tmp_path, server, identitytoken="i")) as source:
        read_everything(source)
    assert tokens.asked() == [
        {
            "grant_type": "refresh_token",
            "service": "tests",
            "client_id": "stacker",
            "scope": "repository:app:pull",
            "refresh_token": "i",
        }
    ]
    assert [a.method for a in server.asked if a.path == "/token"] == ["POST"]


def test_a_registry_token_is_sent_as_it_is(server: FakeRegistry, tmp_path: Path) -> None:
    tokens = Tokens(server)
    with opened(server, "app:1.0", credentials(tmp_path, server, registrytoken="t0")) as source:
        read_everything(source)
    assert tokens.given == 0


def test_expired_token_is_replaced(server: FakeRegistry) -> None:
    tokens = Tokens(server)
    with opened(server) as source:
        tokens.uses = 1
        read_everything(source)
    assert tokens.given == 2


def test_refused_token_ends_the_attempts(server: FakeRegistry) -> None:
    tokens = Tokens(server)
    tokens.uses = 0
    server.quirk = lambda request: not request.path.startswith("/token") or tokens.quirk(request)

    def loop(request: Handler) -> bool:
        if request.path.startswith("/token"):
            return tokens.quirk(request)
        realm = f'Bearer realm="http://{server.host}/token"'
        request.answer(401, b"", {"WWW-Authenticate": realm})
        return True

    server.quirk = loop
    error = refused(AuthenticationError, server)
    assert "credentials refused: " in error.message
    assert (server.count("manifests"), tokens.given) == (2, 1)


@pytest.mark.parametrize("identity", [True, False])
def test_a_token_server_may_refuse(server: FakeRegistry, tmp_path: Path, identity: bool) -> None:
    Tokens(server, wants="nobody")
    entry = {"identitytoken": PASSWORD} if identity else {}
    error = refused(AuthenticationError, server, "app:1.0", credentials(tmp_path, server, **entry))
    assert "credentials refused: " in error.message
    assert "got status 401 from the token server, want 200" in error.message


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"{}"),
        (200, b'{"token": 1}'),
        (200, b'{"token": "a\\r\\nX-Evil: 1"}'),
        (404, b""),
        (200, b'{"token": ""}'),
    ],
)
def test_a_token_server_without_tokens_is_an_error(
    server: FakeRegistry, status: int, body: bytes
) -> None:
    tokens = Tokens(server)
    server.quirk = lambda request: (
        (request.path.startswith("/token") and request.answer(status, body))
        or tokens.quirk(request)
    )
    assert "cannot get a token: " in refused(NetworkError, server).message


@pytest.mark.parametrize(
    "realm", ["http://registry.example/token", "", "/token", "file:///etc/passwd"]
)
def test_token_server_over_plain_http_gets_no_credentials(
    server: FakeRegistry, tmp_path: Path, realm: str
) -> None:
    server.quirk = demanding(f'Bearer realm="{realm}"')
    refused(NetworkError, server, "app:1.0", credentials(tmp_path, server))


def test_credentials_do_not_go_where_a_redirect_leads(server: FakeRegistry, tmp_path: Path) -> None:
    with fake_registry() as other:
        other.content = dict(server.content)

        def quirk(request: Handler) -> bool:
            if "blobs" in request.path and request.headers.get("Authorization") == BASIC:
                request.answer(307, b"", {"Location": f"http://{other.host}{request.path}"})
                return True
            return demanding('Basic realm="tests"', BASIC)(request)

        server.quirk = quirk
        with opened(server, "app:1.0", credentials(tmp_path, server)) as source:
            read_everything(source)
        assert len(other.asked) == 2
        assert not any("authorization" in asked.headers for asked in other.asked)


def test_password_is_sent_after_a_challenge_only(server: FakeRegistry, tmp_path: Path) -> None:
    with opened(server, "app:1.0", credentials(tmp_path, server)) as source:
        read_everything(source)
    assert not any("authorization" in asked.headers for asked in server.asked)


# HTTPS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a self-signed certificate for 127.0.0.1, and its key."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=tests", "-addext"),
            *("subjectAltName=IP:127.0.0.1", "-keyout", path, "-out", path),
        ],
        check=True,
        capture_output=True,
    )
    return path


@pytest.fixture
def secure(certificate: Path, server: FakeRegistry) -> Iterator[FakeRegistry]:
    """Yield a registry that serves the same image over HTTPS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with fake_registry(tls=context) as secure:
        secure.content = server.content
        yield secure


def test_untrusted_certificate_is_refused(secure: FakeRegistry) -> None:
    error = refused(NetworkError, secure)
    assert "certificate" in error.message.lower()
    assert "--cert-dir" in (error.hint or "")
    assert not secure.asked


def test_untrusted_certificate_is_accepted_with_insecure(
    secure: FakeRegistry,
) -> None:
    with opened(secure, insecure=True) as source:
        read_everything(source)


def test_redirect_from_https_to_http_is_refused(secure: FakeRegistry, server: FakeRegistry) -> None:
    place = {"Location": f"http://{server.host}/v2/app/manifests/1.0"}
    secure.quirk = lambda request: "manifests" in request.path and request.answer(302, b"", place)
    assert "want https" in refused(NetworkError, secure, insecure=True).message
    assert not server.asked
