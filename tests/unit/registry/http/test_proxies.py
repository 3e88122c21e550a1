"""The choice of a proxy, and the hosts that need none."""

from __future__ import annotations

import pytest

from stacker.errors import UnsupportedError, UsageError
from stacker.registry.http.origin import origin_of
from stacker.registry.http.proxies import Proxies

PROXY = "http://proxy.example:3128"


def proxy_for(url: str, no_proxy: str = "") -> str:
    return Proxies.parse("http://plain.example", PROXY, no_proxy).proxy_for(origin_of(url, "x"))


def test_each_scheme_has_its_proxy() -> None:
    assert proxy_for("https://registry.example/v2/") == PROXY
    assert proxy_for("http://registry.example/v2/") == "http://plain.example"
    assert Proxies().proxy_for(origin_of("https://registry.example", "x")) == ""


def test_proxy_without_scheme_is_http() -> None:
    assert Proxies.parse("", "proxy.example:3128", "").https == PROXY


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9:5000", "[::1]"])
def test_loopback_is_never_reached_through_a_proxy(host: str) -> None:
    assert proxy_for(f"https://{host}/") == ""


@pytest.mark.parametrize(
    ("no_proxy", "host", "is_direct"),
    [
        ("*", "registry.example", True),
        ("a.example, *", "registry.example", True),
        ("registry.example", "registry.example", True),
        ("Registry.Example", "registry.example", True),
        ("registry.example", "registry.example.", True),
        ("registry.example", "sub.registry.example", True),
        ("registry.example", "notregistry.example", False),
        (".registry.example", "registry.example", False),
        (".registry.example", "sub.registry.example", True),
        ("*.registry.example", "sub.registry.example", True),
        ("*.registry.example", "registry.example", False),
        (" a.example ,, registry.example ", "registry.example", True),
        ("registry.example:5000", "registry.example:5000", True),
        ("registry.example:5000", "registry.example", False),
        ("registry.example:443", "registry.example", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.4", False),
        ("10.1.2.3:443", "10.1.2.3", True),
        ("10.0.0.0/8", "10.1.2.3:5000", True),
        ("10.1.2.3/8", "10.9.9.9", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.0/8", "registry.example", False),
        ("10.0.0.0/99", "10.1.2.3", False),
        ("fd00::/8", "[fd00::1]", True),
        ("fd00::1", "[fd00::1]:5000", True),
        ("[fd00::1]:5000", "[fd00::1]:5000", True),
        ("[fd00::1]:5000", "[fd00::1]", False),
        ("", "registry.example", False),
    ],
)
def test_no_proxy_hosts_are_reached_directly(no_proxy: str, host: str, is_direct: bool) -> None:
    assert proxy_for(f"https://{host}/", no_proxy) == ("" if is_direct else PROXY)


@pytest.mark.parametrize("text", ["http://", "http://[", "http://proxy:0", "http://proxy:x", ":80"])
def test_malformed_proxy_is_refused_without_printing_it(text: str) -> None:
    with pytest.raises(UsageError, match="malformed proxy"):
        Proxies.parse("", text, "")
    with pytest.raises(UsageError) as caught:
        Proxies.parse("http://me:secret@proxy:x", "", "")
    assert "secret" not in caught.value.message


def test_unsupported_proxy_scheme_is_named() -> None:
    with pytest.raises(UnsupportedError, match="socks5"):
        Proxies.parse("", "socks5://me:secret@proxy.example", "")
