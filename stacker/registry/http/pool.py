"""Connections to hosts, kept for the next question: directly or through a proxy, with certificates.

In comes an origin, out comes urllib3's pool for it.  What is asked, and what is done about
answers, is not known here.
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


class Connections:
    """Pools of connections by the way they are made.

    The first host that is asked is the registry: a certificate that is ours in general goes to it
    and nobody else.
    """

    def __init__(self, access: RegistryAccess) -> None:
        self._access = access
        self._home = ""
        self._pools: dict[tuple[str, Certificates], urllib3.PoolManager] = {}
        self._lock = threading.Lock()
        if access.insecure:
            # It was asked for; urllib3 would say so on stderr at every connection.
            urllib3.disable_warnings(exceptions.InsecureRequestWarning)

    def to(self, origin: Origin) -> urllib3.PoolManager:
        """Return the pool that leads to `origin`.

        :raises UsageError: a certificate cannot be read.
        """
        self._home = self._home or origin.host
        material = Certificates()
        if origin.scheme == "https":
            material = self._access.certificates.certificates_for(
                origin.host, origin.port, is_home=origin.host == self._home
            )
        way = (self._access.proxies.proxy_for(origin), material)
        with self._lock:  # several ranges of a layer are asked for at once
            if way not in self._pools:
                self._pools[way] = self._made(*way)
            return self._pools[way]

    def close(self) -> None:
        """Close what is open."""
        for manager in self._pools.values():
            for key in manager.pools.keys():  # noqa: SIM118 - it refuses to be iterated over
                manager.pools[key].close()  # which clear() leaves to the garbage collector

    def _made(self, proxy: str, material: Certificates) -> urllib3.PoolManager:
        options: dict[str, Any] = {
            "maxsize": max(1, self._access.parallel_ranges),
            "cert_reqs": "CERT_NONE" if self._access.insecure else "CERT_REQUIRED",
        }
        if material != Certificates():
            options["ssl_context"] = _context(material, insecure=self._access.insecure)
        manager = self._manager(proxy, options)
        manager.pool_classes_by_scheme = pools(self._access.timeouts.rate_window)
        return manager

    def _manager(self, proxy: str, options: dict[str, Any]) -> urllib3.PoolManager:
        if not proxy:
            return urllib3.PoolManager(**options)
        parts = urlsplit(proxy)
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            options["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=login)
        place = parts.netloc.rpartition("@")[2]
        return urllib3.ProxyManager(f"{parts.scheme}://{place}", **options)


def _context(material: Certificates, *, insecure: bool) -> ssl.SSLContext:
    context = create_urllib3_context(
        cert_reqs=ssl.CERT_NONE if insecure else ssl.CERT_REQUIRED,
    )
    context.load_default_certs()
    for path in material.authorities:
        _load(path, context.load_verify_locations, path)
    for path, key in material.pairs:
        _load(path, context.load_cert_chain, path, key)
    return context


def _load(path: str, load: Any, *files: str) -> None:
    try:
        load(*files)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot use certificate: {path!r}: {_fault(error)}") from error


def _fault(error: OSError | ValueError) -> str:
    """Return why OpenSSL does not take a file; its own texts name its source files."""
    if not isinstance(error, ssl.SSLError):
        return getattr(error, "strerror", None) or "got no certificate, want one in PEM"
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key belongs to another certificate"
    return "got no certificate and key in PEM, want both"


# FOLDED from stacker.registry.http.pool
# """Connections whose answers must get on, however small the pieces they come in.
#
# In come seconds, out come classes for urllib3's pools.  Its own time-outs are for each wait: a
# server that sends a byte of its headers now and then stays within all of them, and for ever.
# How fast a body must be, `answer` knows; here it is about what http.client reads in one go, the
# headers, and the line before each chunk of a body (RFC 9112, section 7.1).
# """


def pools(seconds: float) -> dict[str, type[HTTPConnectionPool]]:
    """Return the classes of pools, by scheme, whose answers get on.

    :param seconds: from the first byte of what is read in one go to its last.
    """

    class Response(_Response):
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


class _Response(HTTPResponse):
    window: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._watched = _Watched(self.fp.detach(), self.window)
        self.fp = io.BufferedReader(self._watched)

    def read1(self, n: int = -1) -> bytes:
        self._watched.start()
        return super().read1(n)


class _Watched(io.RawIOBase):
    """What comes from a socket until that takes too long."""

    def __init__(self, socket: io.RawIOBase, seconds: float) -> None:
        self._socket = socket
        self._seconds = seconds
        self._end: float | None = None

    def start(self) -> None:
        """Count from the next byte on; how long that may take is for the socket to say."""
        self._end = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        """Fill as much of `buffer` as comes.

        :raises TimeoutError: it has been coming for too long.
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
