"""Which proxy to go through, by where one wants to go.

In come the words of the usual variables, out comes a proxy's URL or none.  Who read the variables,
and how a proxy is talked to, is not known here.
Source: Go's httpproxy, curl(1) NO_PROXY; they differ about a leading dot, and this is Go's way.
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
    """Proxies by the scheme of what is asked for, and who is asked directly.

    :param exempt: hosts, domains, addresses and networks, each perhaps with a port; or ``*``.
    """

    http: str = ""
    https: str = ""
    exempt: tuple[str, ...] = ()

    @classmethod
    def of(cls, http: str, https: str, no_proxy: str) -> Proxies:
        """Return what the values of HTTP_PROXY, HTTPS_PROXY and NO_PROXY mean.

        :raises UsageError: a proxy is no URL.
        :raises UnsupportedError: it is of another kind than http and https.
        """
        exempt = (word.strip().lower() for word in no_proxy.split(","))
        return cls(_url(http), _url(https), tuple(word for word in exempt if word))

    def proxy_for(self, origin: Origin) -> str:
        """Return the URL of the proxy on the way to `origin`, empty when there is none.

        This machine is never asked for through a proxy, to which it would be another one.
        """
        proxy = self.https if origin.scheme == "https" else self.http
        host = origin.host.lower().rstrip(".")
        if not proxy or is_loopback(host):
            return ""
        if any(_exempts(word, host, origin.port) for word in self.exempt):
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
        # It may have a password in it: it is not shown.
        raise UsageError("malformed proxy: got no URL, want http://HOST:PORT")
    if parts.scheme not in ("http", "https"):
        raise UnsupportedError(f"proxy: got {quoted(parts.scheme)}, want http or https")
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
    """Take a port off; an IPv6 address has one behind brackets only."""
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
