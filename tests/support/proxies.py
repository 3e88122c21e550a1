"""HTTP servers on loopback for tests, and a proxy that forwards host names to them.

In: a test's routes.  Out: the proxy's address, and the requests that it received.  This module does
not import the package under test.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class LoopbackServer(ThreadingHTTPServer):
    """A threading HTTP server that ends its threads when it closes."""

    daemon_threads = False
    block_on_close = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors: a client may speak TLS to a plain server, or close the connection."""


@contextmanager
def serving(server: LoopbackServer) -> Iterator[None]:
    """Answer requests in a thread; close the server and its threads afterwards."""
    # Python waits for other threads before the exit handlers run, which may close the server.
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class FakeProxy:
    """A proxy that forwards host names to the servers of a test.

    :param routes: requested ``HOST:PORT`` to the real one; any other host gets status 502.
    :param password: the required Proxy-Authorization, if any.
    :param asked: the first line of each request.
    """

    routes: dict[str, str] = field(default_factory=dict)
    password: str = ""
    asked: list[str] = field(default_factory=list)
    host: str = ""


class _ProxyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FakeProxy

    def do_CONNECT(self) -> None:
        self.proxy.asked.append(self.requestline)
        if self.is_refused(self.path):
            return
        self.send_response(200)
        self.end_headers()
        host, _, port = self.proxy.routes[self.path].rpartition(":")
        with socket.create_connection((host, int(port))) as server:
            thread = threading.Thread(target=_copy, args=(server, self.connection))
            thread.start()
            _copy(self.connection, server)
            thread.join()
        self.close_connection = True

    def do_GET(self) -> None:
        self.proxy.asked.append(self.requestline)
        found = re.fullmatch(r"http://([^/]+)(/.*)", self.path)
        host = found[1] if found else ""
        if self.is_refused(host if ":" in host else f"{host}:80"):
            return
        assert found
        connection = HTTPConnection(self.proxy.routes[host if ":" in host else f"{host}:80"])
        headers = {k: v for k, v in self.headers.items() if not k.lower().startswith("proxy-")}
        connection.request("GET", found[2], headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        self.send_response(answer.status)
        for name in ("Content-Type", "Content-Range"):
            if answer.headers[name]:
                self.send_header(name, answer.headers[name])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def is_refused(self, host: str) -> bool:
        """Answer a request that must not be forwarded; return whether it was answered."""
        status = 0 if host in self.proxy.routes else 502
        if self.proxy.password and self.headers.get("Proxy-Authorization") != self.proxy.password:
            status = 407
        if status:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
        return bool(status)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name upstream
        """Log nothing."""


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with suppress(OSError):  # the peer must not wait for more, whatever ended this side
        target.shutdown(socket.SHUT_WR)


@contextmanager
def fake_proxy() -> Iterator[FakeProxy]:
    """Run a `FakeProxy` on a port of loopback."""
    proxy = FakeProxy()
    server = LoopbackServer(
        ("127.0.0.1", 0), type("_H", (_ProxyHandler,), {"proxy": proxy, "timeout": 5})
    )
    proxy.host = f"127.0.0.1:{server.server_port}"
    with serving(server):
        yield proxy
