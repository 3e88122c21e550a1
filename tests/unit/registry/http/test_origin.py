"""Schemes for hosts, and redirects that are refused."""

from __future__ import annotations

import pytest

from stacker.errors import NetworkError
from stacker.registry.http.origin import Origin, check_scheme, is_loopback, origin_of, schemes_for


@pytest.mark.parametrize(
    ("host", "insecure", "expected"),
    [
        ("registry.example", False, ("https",)),
        ("registry.example:80", False, ("https",)),
        ("127.0.0.1.example", False, ("https",)),
        ("localhost.example", False, ("https",)),
        ("10.0.0.1:5000", False, ("https",)),
        ("registry.example", True, ("https", "http")),
        ("localhost:5000", False, ("http", "https")),
        ("127.9.9.9", False, ("http", "https")),
        ("[::1]:5000", False, ("http", "https")),
        ("[::2]:5000", False, ("https",)),
    ],
)
def test_plain_http_is_for_loopback_or_insecure(
    host: str, insecure: bool, expected: tuple[str, ...]
) -> None:
    assert schemes_for(host, insecure=insecure) == expected


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.1", "", "localhost.", "1270.0.0.1"])
def test_other_addresses_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "url", ["", "ftp://a/b", "file:///etc/passwd", "//a", "http:///x", "http://a:x/", "http://[a/"]
)
def test_malformed_url_is_refused_without_printing_it(url: str) -> None:
    with pytest.raises(NetworkError, match="malformed URL from the registry: a/b: got") as caught:
        origin_of(url, "a/b")
    assert "passwd" not in caught.value.message


def test_ports_have_defaults() -> None:
    assert origin_of("https://A.example/x?y", "") == Origin("https", "a.example", 443)
    assert origin_of("http://a.example:81", "") == Origin("http", "a.example", 81)


TLS = Origin("https", "registry.example", 443)
PLAIN = Origin("http", "registry.example", 80)
LOCAL = Origin("http", "127.0.0.1", 5000)


@pytest.mark.parametrize("target", [PLAIN, LOCAL])
@pytest.mark.parametrize("insecure", [True, False])
def test_https_never_redirects_to_http(target: Origin, insecure: bool) -> None:
    with pytest.raises(NetworkError, match="refused to follow: x: got 'http://"):
        check_scheme(target, TLS, "x", insecure=insecure)


def test_plain_http_to_another_machine_needs_insecure() -> None:
    with pytest.raises(NetworkError, match="refused to follow") as caught:
        check_scheme(PLAIN, LOCAL, "x", insecure=False)
    assert "--insecure" in (caught.value.hint or "")
    check_scheme(PLAIN, LOCAL, "x", insecure=True)
    check_scheme(LOCAL, PLAIN, "x", insecure=False)
    check_scheme(TLS, PLAIN, "x", insecure=False)
