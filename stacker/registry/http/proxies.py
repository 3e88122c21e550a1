"""Choose the proxy for a host.

The values of HTTP_PROXY, HTTPS_PROXY and NO_PROXY come in; the URL of a proxy goes out, or none.
This module must not read the environment or connect to a proxy.
Source: Go's httpproxy and curl(1), NO_PROXY.  They differ about a leading dot; this is Go's way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from stacker.errors import UnsupportedError, UsageError
from stacker.image.document import quoted
from stacker.registry.http.origin import is_loopback

if TYPE_CHECKING:
    from stacker.registry.http.origin import Origin


@dataclass(frozen=True, slots=True)
class Proxies:
    """Proxies by URL scheme, and the hosts that are reached directly.

    :param no_proxy: hosts, domains, addresses and networks, each with an optional port; or ``*``.
    """

    http: str = ""
    https: str = ""
    no_proxy: tuple[str, ...] = ()

    @classmethod
    def parse(cls, http: str, https: str, no_proxy: str) -> Proxies:
        """Return the proxies that HTTP_PROXY, HTTPS_PROXY and NO_PROXY configure.

        :raises UsageError: a proxy is not a URL.
        :raises UnsupportedError: a proxy's scheme is neither http nor https.
        """
        words = (word.strip().lower() for word in no_proxy.split(","))
        return cls(_url(http), _url(https), tuple(word for word in words if word))

    def proxy_for(self, origin: Origin) -> str:
        """Return the URL of the proxy for `origin`, empty for a direct connection.

        The loopback interface is always reached directly: to the proxy it is another machine.
        """
        proxy = self.https if origin.scheme == "https" else self.http
        host = origin.host.lower().rstrip(".")
        if not proxy or is_loopback(host):
            return ""
        if any(_exempts(word, host, origin.port) for word in self.no_proxy):
            return ""
        return proxy


def _url(text: str) -> str:
    if not text:
        return ""
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole, parts = False, urlsplit("")
    if not is_whole:
        # The message omits the value, which may contain a password.
        raise UsageError(
            "malformed proxy: HTTP_PROXY or HTTPS_PROXY: got another form, want http://HOST:PORT"
        )
    if parts.scheme not in ("http", "https"):
        raise UnsupportedError(
            "unsupported proxy: HTTP_PROXY or HTTPS_PROXY: "
            f"got {quoted(parts.scheme)}, want http or https"
        )
    return url


def _exempts(word: str, host: str, port: int) -> bool:
    if word == "*":
        return True
    if "/" in word:
        return _is_in_network(host, word)
    name, wanted = _split(word)
    if wanted and wanted != str(port):
        return False
    if name.startswith(("*.", ".")):
        return host.endswith(name.removeprefix("*"))
    return host == name or host.endswith(f".{name}")


def _split(word: str) -> tuple[str, str]:
    """Return the host and the port, empty if absent; an IPv6 address needs brackets for a port."""
    if word.startswith("["):
        name, _, rest = word[1:].partition("]")
        return name, rest.removeprefix(":")
    if word.count(":") > 1:
        return word, ""
    name, _, wanted = word.partition(":")
    return name, wanted


def _is_in_network(host: str, network: str) -> bool:
    from ipaddress import ip_address, ip_network

    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False
