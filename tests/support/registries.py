"""Registries for tests: Debian's own on loopback, and one in this process that misbehaves.

`debian_registry` runs docker-registry.  `FakeRegistry` serves blobs and manifests from memory,
and a test can replace its answer to any request.  Both stop with
their context.  This module does not import the package under test.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.command import Result, Stacker
from tests.support.proxies import LoopbackServer, serving

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
    """Run docker-registry on loopback; yield its ``HOST:PORT``.

    :param auth: the `auth` section of its configuration.
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
    """Wait for the registry's address in its log; a thread reads the rest of the log."""
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
    """Write a password file, and return the `auth` section that names it."""
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


def log_in(stacker: Stacker, host: str, *options: str | Path, password: str = PASSWORD) -> Result:
    """Log in, with the password on stdin."""
    done = subprocess.run(
        stacker.words("login", "-u", USER, "--password-stdin", *options, host),
        input=password + "\n",
        check=False,
        capture_output=True,
        text=True,
        env=stacker.environment,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert password not in done.stdout + done.stderr
    return Result(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Asked:
    """A request that the server received."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class FakeRegistry:
    """A registry in memory; a test's `quirk` may answer first.

    :param content: path -> (media type, bytes).
    :param quirk: answers a request and returns True, or returns False for the usual answer.
    """

    content: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    quirk: Callable[[Handler], bool] = lambda _: False
    asked: list[Asked] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    host: str = ""

    def count(self, part: str) -> int:
        """Return the number of requests whose path contains `part`."""
        return sum(part in asked.path for asked in self.asked)

    def put(self, repository: str, tag: str, layout: Path) -> None:
        """Add the content of an OCI layout; `tag` names its only image or index."""
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

    do_POST = do_PUT = do_PATCH = do_HEAD = do_DELETE = do_GET  # noqa: N815 - names upstream

    def serve(self) -> bool:
        """Answer as a correct registry does."""
        if self.path == "/v2/":
            return self.answer(200)
        if "/blobs/uploads/" in self.path:
            return self.upload()
        if self.command == "PUT":
            return self.keep(self.path, self.asked.headers["content-type"], self.asked.body)
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
        """Return the requested range, or None without one."""
        found = re.fullmatch(r"bytes=(\d+)-(\d+)?", self.headers.get("Range", ""))
        return (int(found[1]), int(found[2] or size - 1) + 1) if found else None

    def upload(self) -> bool:
        """Receive an upload; `FakeRegistry.uploads` has its bytes so far, by path."""
        path, _, query = self.path.partition("?")
        uploads, body = self.registry.uploads, self.asked.body
        if self.command == "POST":
            path = f"{path}{next(self.registry.numbers)}"
            uploads[path] = b""
            return self.going_on(202, path)
        if path not in uploads:
            return self.answer(404)
        if self.command == "DELETE":
            del uploads[path]
            return self.answer(204)
        if self.command == "GET":
            return self.going_on(204, path)
        start = self.headers.get("Content-Range", str(len(uploads[path]))).partition("-")[0]
        if int(start) != len(uploads[path]):
            return self.answer(416)
        uploads[path] += body
        if self.command == "PATCH":
            return self.going_on(202, path)
        digest = parse_qs(query)["digest"][0]
        if digest != f"sha256:{hashlib.sha256(uploads[path]).hexdigest()}":
            return self.answer(400, b'{"errors": [{"code": "DIGEST_INVALID"}]}')
        name = path.rpartition("uploads/")[0] + digest
        return self.keep(name, "application/octet-stream", uploads.pop(path))

    def going_on(self, status: int, path: str) -> bool:
        """Answer with an upload's location and the range received so far."""
        there = len(self.registry.uploads[path])
        headers = {"Location": path, "Range": f"0-{max(there - 1, 0)}"}
        return self.answer(status, b"", headers)

    def keep(self, path: str, kind: str, data: bytes) -> bool:
        """Store content under a path; a manifest also under its digest."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.registry.content[path] = (kind, data)
        self.registry.content[f"{path.rpartition('/')[0]}/{digest}"] = (kind, data)
        return self.answer(201, b"", {"Docker-Content-Digest": digest})

    def part(self, start: int, end: int, data: bytes, size: int | str) -> bool:
        """Answer with a part whose Content-Range says `start` to `end`."""
        return self.answer(206, data, {"Content-Range": f"bytes {start}-{end - 1}/{size}"})

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> bool:
        """Send a complete answer and return True; `headers` override the usual ones."""
        sent = {"Content-Length": str(len(body)), **(headers or {})}
        self.send_response(status)
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        return True

    def broken(self, data: bytes, at: int) -> bool:
        """Announce `data`, send its first `at` bytes, and close the connection."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:at])
        self.close_connection = True
        return True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name upstream
        """Log nothing."""

    def handle(self) -> None:
        """Accept that a client closes the connection at any time."""
        try:
            super().handle()
        except OSError:
            self.close_connection = True

    def finish(self) -> None:
        try:
            super().finish()
        except OSError:
            self.close_connection = True


@contextmanager
def fake_registry(*, tls: Any = None) -> Iterator[FakeRegistry]:
    """Serve a `FakeRegistry` on a port of loopback.

    :param tls: the server's `ssl.SSLContext`, for https.
    """
    registry = FakeRegistry()
    handler = type("_Handler", (Handler,), {"registry": registry, "timeout": 5})
    server = LoopbackServer(("127.0.0.1", 0), handler)
    if tls is not None:
        # The handshake runs in the handler's thread, under its timeout: a silent client must not
        # block the others.
        server.socket = tls.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    registry.host = f"127.0.0.1:{server.server_port}"
    with serving(server):
        yield registry


class Tokens:
    """Signs tokens that docker-registry accepts, for clients with the password.

    Source: distribution's "Docker Registry v2 Bearer token specification".
    """

    def __init__(self, root: Path, server: FakeRegistry) -> None:
        self.key, self.certificate = root / "key.pem", root / "certificate.pem"
        self.given = 0
        self.scopes: list[list[str]] = []
        server.quirk = self.give
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                *("-subj", "/CN=tests", "-keyout", self.key, "-out", self.certificate),
            ],
            check=True,
            capture_output=True,
        )
        self.auth = {
            "token": {
                "realm": f"http://{server.host}/token",
                "service": "tests",
                "issuer": "tests",
                "rootcertbundle": str(self.certificate),
            }
        }

    def give(self, request: Handler) -> bool:
        wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if request.headers.get("Authorization") != wanted:
            return request.answer(401)
        self.given += 1
        query = parse_qs(urlsplit(request.path).query)
        self.scopes.append(query.get("scope", []))
        access = [
            {"type": kind, "name": name, "actions": actions.split(",")}
            for kind, name, actions in (scope.split(":") for scope in query.get("scope", []))
        ]
        token = self.signed({"iss": "tests", "sub": USER, "aud": "tests", "access": access})
        return request.answer(200, json.dumps({"token": token}).encode())

    def signed(self, claims: dict[str, Any]) -> str:
        now = int(time.time())
        claims |= {"exp": now + 300, "nbf": now - 60, "iat": now, "jti": "1"}
        lines = self.certificate.read_text().splitlines()
        header = {"typ": "JWT", "alg": "RS256", "x5c": ["".join(lines[1:-1])]}
        text = f"{_encoded(json.dumps(header).encode())}.{_encoded(json.dumps(claims).encode())}"
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self.key],
            input=text.encode(),
            check=True,
            capture_output=True,
        ).stdout
        return f"{text}.{_encoded(signature)}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
