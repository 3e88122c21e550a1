"""`--timeout` ends a command that a slow registry would delay without end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stacker.store.store import Store
from tests.support import images
from tests.support.command import Stacker
from tests.support.registries import FakeRegistry, Handler, fake_registry
from tests.support.tars import file, tar

LAYERS = [tar(file("small", b"1")), tar(file("large", bytes(range(256)) * 4096))]
DRIP, PAUSE = 120, 0.1
"""Bytes and seconds: 1.2 KB/s, more than the 1 KiB/s that every transfer must reach."""


class Dripping:
    """A quirk that answers one request a few bytes at a time; it counts the bytes."""

    def __init__(self, is_affected: Callable[[Handler], bool]) -> None:
        self.stopped = threading.Event()
        self.sent = 0
        self._is_affected = is_affected

    def __call__(self, request: Handler) -> bool:
        if not self._is_affected(request):
            return False
        data = request.registry.content[request.path][1]
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        for at in range(0, len(data), DRIP):
            request.wfile.write(data[at : at + DRIP])
            self.sent = at + DRIP
            if self.stopped.wait(PAUSE):
                break
        request.close_connection = True
        return True


@pytest.fixture
def layout(tmp_path: Path) -> images.Layout:
    return images.layout(tmp_path / "app", LAYERS, compression="none")


@pytest.fixture
def server(layout: images.Layout) -> Iterator[FakeRegistry]:
    with fake_registry() as server:
        server.put("app", "1.0", layout.path)
        yield server


@pytest.fixture
def drip(layout: images.Layout, server: FakeRegistry) -> Iterator[Dripping]:
    dripping = Dripping(lambda request: layout.image.diff_ids[1] in request.path)
    server.quirk = dripping
    yield dripping
    dripping.stopped.set()


def test_pull_of_a_dripping_layer_ends_with_code_10(
    stacker: Stacker, server: FakeRegistry, drip: Dripping
) -> None:
    source = f"docker://{server.host}/app:1.0"
    words = stacker.refused(10, "pull", source, "--timeout", "5s")
    assert f"timed out: pull {source}: not finished after 5 s, the limit of --timeout" in words
    assert "--timeout" in words.partition("hint: ")[2]
    assert 0 < drip.sent < len(LAYERS[1])
    assert list(Store(stacker.store).staging.abandoned()) == []


def test_pull_after_a_timeout_resumes(
    stacker: Stacker, server: FakeRegistry, layout: images.Layout, drip: Dripping
) -> None:
    source = f"docker://{server.host}/app:1.0"
    stacker.refused(10, "pull", source, "--timeout", "5")
    drip.stopped.set()
    server.quirk = lambda _: False
    server.asked.clear()
    assert stacker("pull", source, "--timeout", "1h").last == layout.image.config
    (asked,) = (asked for asked in server.asked if layout.image.diff_ids[1] in asked.path)
    assert asked.headers["range"].startswith("bytes=")
    stacker.assert_clean(images=1, layers=2)


def test_pull_of_a_dripping_manifest_ends_with_code_10(
    stacker: Stacker, server: FakeRegistry
) -> None:
    dripping = Dripping(lambda request: "/manifests/" in request.path)
    server.quirk = dripping
    content = server.content["/v2/app/manifests/1.0"]
    server.content["/v2/app/manifests/1.0"] = content[0], content[1] + b" " * 100_000
    try:
        stacker.refused(10, "pull", f"docker://{server.host}/app:1.0", "--timeout", "4s")
        assert 0 < dripping.sent < 100_000
    finally:
        dripping.stopped.set()


def test_copy_of_a_dripping_layer_ends_with_code_10(
    stacker: Stacker, server: FakeRegistry, drip: Dripping, tmp_path: Path
) -> None:
    source = f"docker://{server.host}/app:1.0"
    words = stacker.refused(10, "copy", source, f"oci:{tmp_path}/copy", "--timeout", "5s")
    assert f"timed out: copy {source}: not finished after 5 s" in words
    assert 0 < drip.sent < len(LAYERS[1])
    assert not (tmp_path / "copy" / "index.json").exists()


def test_push_to_a_registry_that_does_not_answer_ends_with_code_10(
    stacker: Stacker, server: FakeRegistry, layout: images.Layout
) -> None:
    stacker("pull", "--no-sync", layout.source)
    stopped = threading.Event()

    def wait(request: Handler) -> bool:
        return request.command in ("PATCH", "PUT", "POST") and stopped.wait(60)

    server.quirk = wait
    try:
        words = stacker.refused(
            10, "push", "app:1.0", f"docker://{server.host}/new:1.0", "--timeout", "4s"
        )
    finally:
        stopped.set()
    assert "timed out: push app:1.0: not finished after 4 s" in words
    assert "/v2/new/manifests/1.0" not in server.content


@pytest.mark.parametrize("time", ["", "-1", "1y", "1.5h", "h"])
def test_time_without_a_meaning_is_a_usage_error(stacker: Stacker, time: str) -> None:
    words = stacker.refused(2, "pull", "oci:none", f"--timeout={time}")
    assert "want a number and s, m, h or d" in words
