"""Pushes and copies to a registry that fails, breaks off or answers wrongly."""

from __future__ import annotations

import signal
import socket
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import Stacker
from tests.support.pushes import LAYERS
from tests.support.registries import FakeRegistry, Handler, fake_registry, needs_registry


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> images.Layout:
    return images.layout(tmp_path_factory.mktemp("layout") / "app", LAYERS)


@needs_registry
def test_push_recovers_from_a_broken_connection_to_a_real_registry(
    stacker: Stacker, registry: str, layout: images.Layout
) -> None:
    stacker("pull", layout.source, "--keep-blobs")
    with cutting(registry, after=11_000_000) as (host, cuts):
        place = f"docker://{host}/cut/app:1.0"
        assert stacker("push", "app:1.0", place, "--jobs", "1").last == layout.image.manifest
    assert cuts == [1]
    place = f"docker://{registry}/cut/app:1.0"
    assert stacker("copy", place, f"docker://{registry}/cut/other:1.0").last
    words = ["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", place]
    subprocess.run([*words, f"dir:{stacker.store}/../checked"], check=True, capture_output=True)


@contextmanager
def cutting(host: str, *, after: int) -> Iterator[tuple[str, list[int]]]:
    """Stand before a registry, and cut one connection when so many bytes went to it."""
    address, _, port = host.partition(":")
    cuts: list[int] = []
    sent = 0

    class Between(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((address, int(port))) as upstream:
                back = threading.Thread(target=pumped, args=(upstream, self.request))
                back.start()
                self.forward(upstream)
                upstream.shutdown(socket.SHUT_RDWR)
                back.join()

        def forward(self, upstream: socket.socket) -> None:
            nonlocal sent
            with suppress(OSError):
                while data := self.request.recv(1 << 16):
                    sent += len(data)
                    if not cuts and sent > after:
                        cuts.append(1)
                        return
                    upstream.sendall(data)

    def pumped(here: socket.socket, there: socket.socket) -> None:
        with suppress(OSError):
            while data := here.recv(1 << 16):
                there.sendall(data)
            there.shutdown(socket.SHUT_RDWR)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Between) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}", cuts
        finally:
            server.shutdown()
            thread.join()


class Once:
    """Lets a quirk happen once, at the first request that it applies to."""

    def __init__(self, quirk: Callable[[Handler], bool]) -> None:
        self.quirk = quirk
        self.happened = 0

    def __call__(self, request: Handler) -> bool:
        if self.happened or not self.quirk(request):
            return False
        self.happened += 1
        return True


def second_chunk(request: Handler) -> bool:
    return request.command == "PATCH" and not request.headers["Content-Range"].startswith("0-")


def dropped(request: Handler) -> bool:
    """Keep half of a chunk and close the connection."""
    if not second_chunk(request):
        return False
    body = request.asked.body
    request.registry.uploads[request.path] += body[: len(body) // 2]
    request.close_connection = True
    return True


def dropped_after(request: Handler) -> bool:
    """Keep a chunk and close the connection without an answer."""
    if not second_chunk(request):
        return False
    request.registry.uploads[request.path] += request.asked.body
    request.close_connection = True
    return True


def forgotten(request: Handler) -> bool:
    """Forget the upload, as Debian's registry does after an incomplete chunk."""
    if not second_chunk(request):
        return False
    del request.registry.uploads[request.path]
    request.registry.uploads["a number that is taken"] = b""
    request.close_connection = True
    return True


def out_of_range(request: Handler) -> bool:
    return second_chunk(request) and request.answer(416)


def busy(request: Handler) -> bool:
    return second_chunk(request) and request.answer(429, b"", {"Retry-After": "0"})


def unavailable(request: Handler) -> bool:
    return request.command == "PUT" and request.answer(503, b"", {"Retry-After": "0"})


def short(request: Handler) -> bool:
    """Keep a part of a chunk and report its size."""
    if not second_chunk(request):
        return False
    request.registry.uploads[request.path] += request.asked.body[:1000]
    return request.going_on(202, request.path)


def silent_close(request: Handler) -> bool:
    """Store the blob and close the connection without an answer."""
    if request.command != "PUT" or "uploads" not in request.path:
        return False
    request.wfile = open("/dev/null", "wb")  # noqa: SIM115
    request.upload()
    request.close_connection = True
    return True


@pytest.mark.parametrize(
    "quirk",
    [
        dropped,
        dropped_after,
        forgotten,
        out_of_range,
        busy,
        unavailable,
        short,
        silent_close,
    ],
)
def test_push_recovers(
    stacker: Stacker,
    server: FakeRegistry,
    layout: images.Layout,
    quirk: Callable[[Handler], bool],
) -> None:
    stacker("pull", layout.source, "--keep-blobs")
    once = server.quirk = Once(quirk)
    place = f"docker://{server.host}/app:1.0"
    assert stacker("push", "app:1.0", place, "--jobs", "1").last == layout.image.manifest
    assert once.happened == 1
    server.quirk = lambda _: False
    for digest in (*layout.image.layers, layout.image.config):
        data = server.content[f"/v2/app/blobs/{digest}"][1]
        assert images.digest_of(data) == digest


def without_location(request: Handler) -> bool:
    return request.command == "POST" and request.answer(202)


def to_another_host(request: Handler) -> bool:
    place = {"Location": "http://registry.example/upload"}
    return request.command == "POST" and request.answer(202, b"", place)


def to_a_file(request: Handler) -> bool:
    return request.command == "POST" and request.answer(202, b"", {"Location": "file:///tmp/x"})


def to_an_unknown_upload(request: Handler) -> bool:
    place = {"Location": "/v2/app/blobs/uploads/gone"}
    return request.command == "POST" and request.answer(202, b"", place)


def forbidden(request: Handler) -> bool:
    return request.command == "POST" and request.answer(403, b'{"errors": [{"code": "DENIED"}]}')


def always_dropped(request: Handler) -> bool:
    request.close_connection = True
    return request.command == "PATCH"


def always_busy(request: Handler) -> bool:
    return request.command == "PATCH" and request.answer(429, b"", {"Retry-After": "0"})


def too_late(request: Handler) -> bool:
    return request.command == "PATCH" and request.answer(503, b"", {"Retry-After": "3600"})


def wrong_digest(request: Handler) -> bool:
    wanted = request.command == "PUT" and "manifests" in request.path
    message = {"Docker-Content-Digest": f"sha256:{'0' * 64}"}
    return wanted and request.answer(201, b"", message)


def no_manifest(request: Handler) -> bool:
    wanted = request.command == "PUT" and "manifests" in request.path
    return wanted and request.answer(400, b'{"errors": [{"code": "MANIFEST_INVALID"}]}')


def huge_chunks(request: Handler) -> bool:
    if request.command != "POST":
        return False
    place = {"Location": "/v2/app/blobs/uploads/0", "OCI-Chunk-Min-Length": str(1 << 40)}
    return request.answer(202, b"", place)


@pytest.mark.parametrize(
    ("quirk", "failure"),
    [
        (without_location, (10, "no upload URL")),
        (to_another_host, (10, "want https")),
        (to_a_file, (10, "malformed URL")),
        (to_an_unknown_upload, (10, "gave up after")),
        (forbidden, (4, "access denied")),
        (always_dropped, (10, "gave up after")),
        (always_busy, (10, "gave up after")),
        (too_late, (10, "3600 s")),
        (wrong_digest, (5, "wrong digest stored")),
        (no_manifest, (10, "invalid manifest")),
        (huge_chunks, (10, "chunks too large")),
    ],
)
def test_failed_push_prints_one_line_and_creates_no_tag(
    stacker: Stacker,
    server: FakeRegistry,
    layout: images.Layout,
    quirk: Callable[[Handler], bool],
    failure: tuple[int, str],
) -> None:
    code, message = failure
    stacker("pull", layout.source, "--keep-blobs")
    server.quirk = quirk
    words = stacker.refused(code, "push", "app:1.0", f"docker://{server.host}/app:1.0")
    assert message in words
    assert f"{server.host}/app" in words
    assert "/v2/app/manifests/1.0" not in server.content
    stacker.assert_clean(images=1, layers=2)


def test_mount_that_becomes_an_upload_is_uploaded(
    stacker: Stacker, server: FakeRegistry, layout: images.Layout
) -> None:
    server.put("from", "1.0", layout.path)
    source, place = (f"docker://{server.host}/{name}:1.0" for name in ("from", "app"))
    assert stacker("copy", source, place).last == layout.image.manifest
    asked = [request for request in server.asked if request.method == "POST"]
    assert len(asked) == 3
    assert all("from=from&" in f"{r.path}&" and "mount=sha256%3A" in r.path for r in asked)


def test_refused_mount_is_uploaded(
    stacker: Stacker, server: FakeRegistry, layout: images.Layout
) -> None:
    server.put("from", "1.0", layout.path)
    server.quirk = lambda request: "mount=" in request.path and request.answer(403)
    source, place = (f"docker://{server.host}/{name}:1.0" for name in ("from", "app"))
    assert stacker("copy", source, place).last == layout.image.manifest


def test_damaged_source_creates_no_tag(
    stacker: Stacker, server: FakeRegistry, layout: images.Layout
) -> None:
    server.put("from", "1.0", layout.path)
    large = max(server.content, key=lambda path: len(server.content[path][1]))
    kind, data = server.content[large]
    server.content[large] = (kind, data[:-1] + bytes([data[-1] ^ 1]))
    with fake_registry() as target:
        words = stacker.refused(
            5, "copy", f"docker://{server.host}/from:1.0", f"docker://{target.host}/app:1.0"
        )
        assert "wrong digest" in words
        assert not [path for path in target.content if "manifests" in path]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_push_leaves_no_files_and_no_tag(
    stacker: Stacker,
    server: FakeRegistry,
    layout: images.Layout,
    number: signal.Signals,
) -> None:
    stacker("pull", layout.source)
    reached, resume = threading.Event(), threading.Event()

    def held(request: Handler) -> bool:
        if request.command != "PATCH":
            return False
        reached.set()
        resume.wait(60)
        return request.answer(500)

    server.quirk = held
    started = stacker.start("push", "app:1.0", f"docker://{server.host}/app:1.0")
    assert reached.wait(60)
    started.send_signal(number)
    _, message = started.communicate(timeout=60)
    resume.set()
    assert started.returncode == 128 + number
    assert len(message.splitlines()) == 1
    stacker.assert_clean(images=1, layers=2)
    assert not [path for path in server.content if "manifests" in path]


def test_failed_copy_creates_no_archive(
    stacker: Stacker, server: FakeRegistry, layout: images.Layout, tmp_path: Path
) -> None:
    server.put("app", "1.0", layout.path)
    (tmp_path / "out").mkdir()
    server.quirk = lambda request: layout.image.layers[0] in request.path and request.answer(404)
    place = f"docker://{server.host}/app:1.0"
    stacker.refused(3, "copy", place, f"oci-archive:{tmp_path}/out/a.tar")
    assert not list((tmp_path / "out").iterdir())
