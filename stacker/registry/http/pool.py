"""Pools of connections: directly or through a proxy, with certificates, and with a time limit.

An origin comes in; urllib3's pool manager for it goes out.  This module does not send requests.

urllib3's timeouts bound each single wait, so a server that sends one byte of its headers now and
then never exceeds them.  http.client reads the headers at once, and the line before each chunk of a
body (RFC 9112, section 7.1); these pools bound the time of each such read.
`stacker.registry.http.response` bounds the rate of the body.
"""

from __future__ import annotations

import io
import ssl
import threading
import time
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3 import exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.ssl_ import create_urllib3_context

from stacker.errors import UsageError
from stacker.registry.http.certificates import Certificates

if TYPE_CHECKING:
    from stacker.registry.http.origin import Origin
    from stacker.registry.settings import RegistryAccess


class ConnectionPools:
    """One pool manager for each combination of proxy and certificates.

    The first host is the registry: client certificates for all hosts go to it only.
    """

    def __init__(self, access: RegistryAccess) -> None:
        self._access = access
        self._registry = ""
        self._managers: dict[tuple[str, Certificates], urllib3.PoolManager] = {}
        self._lock = threading.Lock()
        if access.insecure:
            # The user asked for it; urllib3 would warn on stderr at every connection.
            urllib3.disable_warnings(exceptions.InsecureRequestWarning)

    def pool_for(self, origin: Origin) -> urllib3.PoolManager:
        """Return the pool manager for `origin`.

        :raises UsageError: a certificate cannot be read.
        """
        self._registry = self._registry or origin.host
        certificates = Certificates()
        if origin.scheme == "https":
            certificates = self._access.certificates.certificates_for(
                origin.host, origin.port, is_registry=origin.host == self._registry
            )
        key = (self._access.proxies.proxy_for(origin), certificates)
        with self._lock:  # parallel range requests share a session
            if key not in self._managers:
                self._managers[key] = self._create(*key)
            return self._managers[key]

    def close(self) -> None:
        """Close all connections."""
        for manager in self._managers.values():
            for key in manager.pools.keys():  # noqa: SIM118 - it refuses to be iterated over
                manager.pools[key].close()  # which clear() leaves to the garbage collector

    def _create(self, proxy: str, certificates: Certificates) -> urllib3.PoolManager:
        options: dict[str, Any] = {
            "maxsize": max(1, self._access.parallel_ranges),
            "cert_reqs": "CERT_NONE" if self._access.insecure else "CERT_REQUIRED",
        }
        if certificates != Certificates():
            options["ssl_context"] = _context(certificates, insecure=self._access.insecure)
        manager = _manager(proxy, options)
        manager.pool_classes_by_scheme = pool_classes(self._access.timeouts.rate_window)
        return manager


def _manager(proxy: str, options: dict[str, Any]) -> urllib3.PoolManager:
    if not proxy:
        return urllib3.PoolManager(**options)
    parts = urlsplit(proxy)
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        options["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=login)
    host = parts.netloc.rpartition("@")[2]
    return urllib3.ProxyManager(f"{parts.scheme}://{host}", **options)


def _context(certificates: Certificates, *, insecure: bool) -> ssl.SSLContext:
    context = create_urllib3_context(
        cert_reqs=ssl.CERT_NONE if insecure else ssl.CERT_REQUIRED,
    )
    context.load_default_certs()
    for path in certificates.authorities:
        _load(path, context.load_verify_locations, path)
    for path, key in certificates.pairs:
        _load(path, context.load_cert_chain, path, key)
    return context


def _load(path: str, load: Any, *files: str) -> None:
    try:
        load(*files)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot use certificate: {path!r}: {_fault(error)}") from error


def _fault(error: OSError | ValueError) -> str:
    """Return why OpenSSL refuses a file; its own texts name its source files."""
    if not isinstance(error, ssl.SSLError):
        return getattr(error, "strerror", None) or "got no certificate, want one in PEM"
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key belongs to another certificate"
    return "got no certificate and key in PEM, want both"


def pool_classes(seconds: float) -> dict[str, type[HTTPConnectionPool]]:
    """Return urllib3's pool classes by scheme, with a limit on the time of each read.

    :param seconds: the limit from the first to the last byte that http.client reads at once.
    """

    class Response(_TimedResponse):
        # http.client calls `response_class`: a functools.partial would become a method there.
        window = seconds

    class Plain(HTTPConnection):
        response_class = Response

    class Secure(HTTPSConnection):
        response_class = Response

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


class _TimedResponse(HTTPResponse):
    window: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timed = _TimedSocket(self.fp.detach(), self.window)
        self.fp = io.BufferedReader(self._timed)

    def read1(self, n: int = -1) -> bytes:
        self._timed.restart()
        return super().read1(n)


class _TimedSocket(io.RawIOBase):
    """A socket that raises TimeoutError if bytes keep arriving for too long."""

    def __init__(self, socket: io.RawIOBase, seconds: float) -> None:
        self._socket = socket
        self._seconds = seconds
        self._end: float | None = None

    def restart(self) -> None:
        """Start the clock at the next byte; the socket's own timeout bounds the wait for it."""
        self._end = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        """Read bytes into `buffer`.

        :raises TimeoutError: the first byte since `restart` came too long ago.
        """
        got = self._socket.readinto(buffer)
        now = time.monotonic()
        if self._end is None:
            self._end = now + self._seconds
        elif now > self._end:
            raise TimeoutError
        return got

    def close(self) -> None:
        self._socket.close()
        super().close()
