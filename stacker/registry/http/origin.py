"""Origins of URLs: which scheme to use for a host, and which redirects to follow.

Hosts and URLs come in; schemes, origins and errors go out.  This module does not open connections.
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
    """The scheme, host and port of a URL (RFC 6454, section 4)."""

    scheme: str
    host: str
    port: int


def origin_of(url: str, what: str) -> Origin:
    """Return the origin of an absolute URL.

    :raises NetworkError: the URL is malformed, or its scheme is neither http nor https.
    """
    try:
        parts: SplitResult = urlsplit(url)
        origin = Origin(
            parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
        )
    except ValueError:
        origin = Origin("", "", 0)
    if origin.scheme not in _PORTS or not origin.host:
        # The message omits the URL, which may carry a signature.
        raise NetworkError(
            f"malformed URL from the registry: {what}: got another form, want http:// or https://"
        )
    return origin


def schemes_for(host: str, *, insecure: bool) -> tuple[str, ...]:
    """Return the schemes to try for ``HOST[:PORT]``, in order.

    Plain HTTP is allowed on the loopback interface, where no other machine can listen, and with
    `insecure`.
    """
    if is_loopback(urlsplit(f"//{host}").hostname or ""):
        return ("http", "https")
    return ("https", "http") if insecure else ("https",)


def check_scheme(origin: Origin, previous: Origin, what: str, *, insecure: bool) -> None:
    """Check that a redirect or a location may lead from `previous` to `origin`.

    :raises NetworkError: it leads from HTTPS to HTTP, or to plain HTTP on another machine.
    """
    if origin.scheme == "https":
        return
    got = quoted(f"http://{origin.host}")
    if previous.scheme == "https":
        raise NetworkError(f"refused to follow: {what}: got {got}, want https")
    if not insecure and not is_loopback(origin.host):
        raise NetworkError(
            f"refused to follow: {what}: got {got}, want https",
            hint="--insecure allows plain HTTP, which others on the network can read and change",
        )


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is that of the loopback interface, without DNS."""
    from ipaddress import ip_address

    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
