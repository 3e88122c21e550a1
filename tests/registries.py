"""Registries for tests: Debian's own on loopback, and one in this process that misbehaves.

``DebianRegistry`` is docker-registry with a configuration of its own; ``FakeRegistry`` serves
blobs and manifests from memory and does to a request what a test wants done.  Both end with
their context.  Knows nothing of the package under test.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

USER: Final = "opener"
PASSWORD: Final = "open-sesame"
# bcrypt of PASSWORD, as `htpasswd -B` writes it.
_HTPASSWD = f"{USER}:$2b$04$/KqzJJ1SxfvVG3iPffZE/O53uGq6A0py4la..JrKPQFqycjibzoEK\n"
_LISTENING = re.compile(r"listening on (127\.0\.0\.1:\d+)")

needs_registry = pytest.mark.skipif(
    not (shutil.which("docker-registry") and shutil.which("skopeo")),
    reason="docker-registry and skopeo are not both installed",
)


@contextmanager
def debian_registry(root: Path, *, auth: dict[str, Any] | None = None) -> Iterator[str]:
    """Run docker-registry on loopback; give its ``HOST:PORT``.

    :param auth: the section of its configuration that says who may come in.
    """
    root.mkdir()
    config = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(root / "data")}},
        "http": {"addr": "127.0.0.1:0", "secret": "for tests"},
        **({"auth": auth} if auth else {}),
    }
    (root / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    log = root / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(root / "config.yml")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            yield _listening(process, output)
        finally:
            process.kill()
            process.wait()


def _listening(process: subprocess.Popen[bytes], log: Any) -> str:
    """Wait until the registry says where it listens, and let a thread read what else it says."""
    assert process.stderr is not None
    for line in process.stderr:
        log.write(line)
        if found := _LISTENING.search(line.decode()):
            threading.Thread(target=_drain, args=(process.stderr,), daemon=True).start()
            return found[1]
    raise AssertionError(f"docker-registry ended: {log.name}")


def _drain(pipe: Any) -> None:
    with pipe:
        for _ in pipe:
            pass


def with_passwords(root: Path) -> dict[str, Any]:
    """Write a file of passwords, and give the section that names it."""
    path = root / "htpasswd"
    path.write_text(_HTPASSWD)
    return {"htpasswd": {"realm": "tests", "path": str(path)}}


def push(source: str, host: str, name: str, *options: str) -> None:
    """Push with skopeo to a registry on loopback."""
    skopeo = ["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false"]
    subprocess.run(
        [*skopeo, *options, source, f"docker://{host}/{name}"],
        check=True,
        capture_output=True,
        text=True,
    )


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class FakeRegistry:
    """A server with an answer for every path, and a `quirk` that may come first.

    :param content: path -> (media type, bytes).
    :param quirk: handles a request and returns True, or leaves it to the server.
    """

    content: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    quirk: Callable[[Handler], bool] = lambda _: False
    asked: list[Asked] = field(default_factory=list)
    host: str = ""

    def count(self, part: str) -> int:
        """Say how often a path with `part` in it was asked for."""
        return sum(part in asked.path for asked in self.asked)

    def put(self, repository: str, tag: str, layout: Path) -> None:
        """Have everything of an OCI layout, its only image (or index) under `tag`."""
        (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
        for blob in (layout / "blobs" / "sha256").iterdir():
            data, digest = blob.read_bytes(), f"sha256:{blob.name}"
            self.content[f"/v2/{repository}/blobs/{digest}"] = ("application/octet-stream", data)
            kind = _kind(data)
            if kind:
                self.content[f"/v2/{repository}/manifests/{digest}"] = (kind, data)
            if digest == entry["digest"]:
                self.content[f"/v2/{repository}/manifests/{tag}"] = (kind, data)


def _kind(data: bytes) -> str:
    try:
        return str(json.loads(data).get("mediaType", ""))
    except ValueError:
        return ""


class Handler(BaseHTTPRequestHandler):
    """Answers one request of a `FakeRegistry`."""

    protocol_version = "HTTP/1.1"
    registry: FakeRegistry
    asked: Asked

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.asked = Asked(self.command, self.path, headers, body)
        self.registry.asked.append(self.asked)
        if not self.registry.quirk(self):
            self.serve()

    do_POST = do_GET  # noqa: N815 - its name upstream

    def serve(self) -> bool:
        """Answer as an honest registry does."""
        if self.path == "/v2/":
            return self.answer(200)
        if self.path not in self.registry.content:
            errors = {"errors": [{"code": "NAME_UNKNOWN", "message": "no such thing"}]}
            return self.answer(404, json.dumps(errors).encode())
        kind, data = self.registry.content[self.path]
        span = self.wanted(len(data))
        if span is None:
            return self.answer(200, data, {"Content-Type": kind})
        start, end = span
        return self.part(start, end, data[start:end], len(data))

    def wanted(self, size: int) -> tuple[int, int] | None:
        """Give the range that is asked for, None without one."""
        found = re.fullmatch(r"bytes=(\d+)-(\d+)?", self.headers.get("Range", ""))
        return (int(found[1]), int(found[2] or size - 1) + 1) if found else None

    def part(self, start: int, end: int, data: bytes, size: int | str) -> bool:
        """Answer with a part that claims to be from `start` up to `end`."""
        return self.answer(206, data, {"Content-Range": f"bytes {start}-{end - 1}/{size}"})

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> bool:
        """Answer with everything at once, and give True; `headers` go before the usual ones."""
        sent = {"Content-Length": str(len(body)), **(headers or {})}
        self.send_response(status)
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        return True

    def broken(self, data: bytes, at: int) -> bool:
        """Promise `data`, send its first `at` bytes, and hang up."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:at])
        self.close_connection = True
        return True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name upstream
        """Say nothing."""

    def handle(self) -> None:
        """Let a client hang up whenever it wants."""
        try:
            super().handle()
        except OSError:
            self.close_connection = True

    def finish(self) -> None:
        try:
            super().finish()
        except OSError:
            self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that speaks TLS to us, or hangs up, is no error here."""


@contextmanager
def fake_registry(*, tls: Any = None) -> Iterator[FakeRegistry]:
    """Serve a `FakeRegistry` on a port of loopback.

    :param tls: the `ssl.SSLContext` of a server that speaks https.
    """
    registry = FakeRegistry()
    handler = type("_Handler", (Handler,), {"registry": registry, "timeout": 5})
    server = _Server(("127.0.0.1", 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    registry.host = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
