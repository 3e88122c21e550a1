"""Foreign layers from other servers: only with permission, without credentials, over HTTPS."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stacker.errors import IntegrityError, NetworkError, NotFoundError, StackerError
from stacker.image import mediatype
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest
from stacker.registry.client import Client
from stacker.registry.credentials import Credentials
from stacker.registry.http.certificates import CertificateDirectories
from stacker.registry.settings import RegistryAccess, Timeouts
from stacker.source.registry_image import RegistryImage
from tests.support.certificates import Authority, needs_openssl
from tests.support.registries import FakeRegistry, Handler, fake_registry

CONTENT = random.Random(0).randbytes(300_000)
LAYER = Descriptor(mediatype.DOCKER_FOREIGN_LAYER + ".gzip", Digest.of(CONTENT), len(CONTENT))
PATH = f"/v2/app/blobs/{LAYER.digest}"
TIMEOUTS = Timeouts(connect=5, read=5, attempts=2, sleep=lambda _: None)


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    """Yield a registry that lacks the layer."""
    with fake_registry() as server:
        yield server


@pytest.fixture
def elsewhere() -> Iterator[FakeRegistry]:
    with fake_registry() as server:
        server.content["/layer?signed=secret"] = ("application/x", CONTENT)
        yield server


def url(server: FakeRegistry, scheme: str = "http") -> str:
    return f"{scheme}://{server.host}/layer?signed=secret"


def fetch(
    base: FakeRegistry | str,
    *urls: str,
    allowed: bool = True,
    media_type: str = LAYER.media_type,
    have: bytes = b"",
    trust: CertificateDirectories | None = None,
    insecure: bool = False,
) -> bytes:
    access = RegistryAccess(
        timeouts=TIMEOUTS,
        allow_foreign=allowed,
        certificates=trust or CertificateDirectories(),
        insecure=insecure,
    )
    client = Client(
        base if isinstance(base, str) else f"http://{base.host}",
        "app",
        access=access,
        credentials=Credentials("me", "secret"),
    )
    source = RegistryImage(client, LAYER, ())
    layer = replace(LAYER, urls=urls, media_type=media_type)
    try:
        with source.resume_blob(layer, io.BytesIO(have)) as blob:
            return blob.read()
    finally:
        client.close()


def refused(kind: type[StackerError], *words: FakeRegistry | str, allowed: bool = True) -> str:
    with pytest.raises(kind) as caught:
        fetch(*words, allowed=allowed)  # type: ignore[arg-type]
    assert type(caught.value) is kind
    return f"{caught.value.message} {caught.value.hint}"


def test_registry_precedes_foreign_urls(server: FakeRegistry, elsewhere: FakeRegistry) -> None:
    server.content[PATH] = ("application/x", CONTENT)
    assert fetch(server, url(elsewhere)) == CONTENT
    assert not elsewhere.asked


@pytest.mark.parametrize("media_type", sorted(mediatype.FOREIGN_LAYERS))
def test_missing_foreign_layer_is_fetched_from_its_url(
    server: FakeRegistry, elsewhere: FakeRegistry, media_type: str
) -> None:
    assert fetch(server, url(elsewhere), media_type=media_type) == CONTENT


def test_foreign_urls_need_permission(server: FakeRegistry, elsewhere: FakeRegistry) -> None:
    message = refused(NotFoundError, server, url(elsewhere), allowed=False)
    assert "--allow-foreign" in message
    assert elsewhere.host in message
    assert not elsewhere.asked


def test_urls_of_an_ordinary_layer_are_ignored(
    server: FakeRegistry, elsewhere: FakeRegistry
) -> None:
    with pytest.raises(NotFoundError):
        fetch(server, url(elsewhere), media_type=mediatype.OCI_LAYER)
    assert not elsewhere.asked


def test_foreign_urls_are_tried_in_order(server: FakeRegistry, elsewhere: FakeRegistry) -> None:
    wrong = f"http://{elsewhere.host}/none"
    unreachable = "http://127.0.0.1:1/layer"
    assert fetch(server, unreachable, wrong, url(elsewhere)) == CONTENT
    assert "127.0.0.1" in refused(NetworkError, server, wrong, unreachable)
    assert "404" in refused(NotFoundError, server, unreachable, wrong)


def test_foreign_transfer_resumes_by_range(server: FakeRegistry, elsewhere: FakeRegistry) -> None:
    left = [1]

    def drop(request: Handler) -> bool:
        left[0] -= 1
        return left[0] == 0 and request.broken(CONTENT, 100_000)

    elsewhere.quirk = drop
    assert fetch(server, url(elsewhere)) == CONTENT
    assert elsewhere.asked[1].headers["range"] == "bytes=100000-299999"
    assert server.count("/blobs/") == 1
    elsewhere.asked.clear()
    assert fetch(server, url(elsewhere), have=CONTENT[:50]) == CONTENT
    assert elsewhere.asked[0].headers["range"] == "bytes=50-299999"


def test_foreign_server_gets_no_credentials(server: FakeRegistry, elsewhere: FakeRegistry) -> None:
    def demanding(request: Handler) -> bool:
        if request.headers.get("Authorization"):
            return False
        return request.answer(401, b"", {"WWW-Authenticate": 'Basic realm="tests"'})

    server.quirk = demanding
    assert fetch(server, url(elsewhere)) == CONTENT
    elsewhere.quirk = demanding
    assert "401" in refused(NetworkError, server, url(elsewhere))
    assert not any("authorization" in asked.headers for asked in elsewhere.asked)


@pytest.mark.parametrize("insecure", [False, True])
@pytest.mark.parametrize(
    "address", ["http://elsewhere.example/layer", "ftp://elsewhere.example/", "file:///etc/passwd"]
)
def test_foreign_urls_on_other_machines_need_https(
    server: FakeRegistry, address: str, insecure: bool
) -> None:
    with pytest.raises(NetworkError, match=r"refused to fetch|malformed URL"):
        fetch(server, address, insecure=insecure)


def test_foreign_layer_of_another_size_is_refused(
    server: FakeRegistry, elsewhere: FakeRegistry
) -> None:
    elsewhere.content["/layer?signed=secret"] = ("application/x", CONTENT + b"x")
    assert "wrong size" in refused(IntegrityError, server, url(elsewhere))


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[FakeRegistry, CertificateDirectories]]:
    authority = Authority(tmp_path / "authority")
    with fake_registry(tls=authority.context("IP:127.0.0.1,DNS:registry.example")) as server:
        yield server, CertificateDirectories(str(authority.root))


@needs_openssl
def test_foreign_https_does_not_redirect_to_http(
    server: FakeRegistry,
    elsewhere: FakeRegistry,
    secure: tuple[FakeRegistry, CertificateDirectories],
) -> None:
    https, trust = secure
    https.content["/layer?signed=secret"] = ("application/x", CONTENT)
    assert fetch(server, url(https, "https"), trust=trust) == CONTENT
    place = {"Location": url(elsewhere)}
    https.quirk = lambda request: request.answer(302, b"", place)
    with pytest.raises(NetworkError, match="want https"):
        fetch(server, url(https, "https"), trust=trust)
    assert not elsewhere.asked


def test_remote_registry_cannot_redirect_to_loopback(elsewhere: FakeRegistry) -> None:
    from stacker.registry.http.proxies import Proxies
    from tests.support.proxies import fake_proxy

    with fake_registry() as registry, fake_proxy() as proxy:
        proxy.routes = {"registry.example:80": registry.host}
        access = RegistryAccess(
            insecure=True,
            allow_foreign=True,
            timeouts=TIMEOUTS,
            proxies=Proxies.parse(proxy.host, "", ""),
        )
        client = Client("http://registry.example", "app", access=access, credentials=None)
        layer = replace(LAYER, urls=(url(elsewhere),))
        with pytest.raises(NetworkError, match="want a remote one"):
            RegistryImage(client, layer, ()).open_blob(layer)
        client.close()
    assert not elsewhere.asked
