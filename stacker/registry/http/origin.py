"""Where a registry listens: which schemes may be spoken to a host, and which redirects followed.

In come hosts and URLs, out come decisions about them.  No connection is made here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from stacker.errors import NetworkError
from stacker.image.document import quoted

if TYPE_CHECKING:
    from urllib.parse import SplitResult

_PORTS = {"https": 443, "http": 80}


class Origin(NamedTuple):
    """Who answers a URL (RFC 6454, section 4)."""

    scheme: str
    host: str
    port: int


def origin_of(url: str, what: str) -> Origin:
    """Return the origin of an absolute URL.

    :raises NetworkError: it is malformed, or of another scheme than http and https.
    """
    try:
        parts: SplitResult = urlsplit(url)
        origin = Origin(
            parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
        )
    except ValueError:
        origin = Origin("", "", 0)
    if origin.scheme not in _PORTS or not origin.host:
        # A location may carry a signature: it is not shown.
        raise NetworkError(f"malformed URL from the registry: {what}: want http:// or https://")
    return origin


def schemes(host: str, *, insecure: bool) -> tuple[str, ...]:
    """Return the schemes to try for ``HOST[:PORT]``, the best first.

    Plain http is for this machine, where nobody listens in on it, and for who insists.
    """
    if is_loopback(urlsplit(f"//{host}").hostname or ""):
        return ("http", "https")
    return ("https", "http") if insecure else ("https",)


def check_plain(origin: Origin, came_from: Origin, what: str, *, insecure: bool) -> None:
    """Check that `came_from` may send us to `origin`.

    :raises NetworkError: it leads from https to http, or to plain http of another machine.
    """
    if origin.scheme == "https":
        return
    got = quoted(f"http://{origin.host}")
    if came_from.scheme == "https":
        raise NetworkError(f"refused to follow: {what}: got {got}, want https")
    if not insecure and not is_loopback(origin.host):
        raise NetworkError(
            f"refused to follow: {what}: got {got}, want https",
            hint="--insecure allows plain http, which anybody on the way can read and change",
        )


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine, by what it says."""
    from ipaddress import ip_address

    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
