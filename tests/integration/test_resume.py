"""A pull that dies leaves what it has got, and the next one asks for the rest."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import PATIENCE, Stacker, wait_until
from tests.support.registries import (
    FakeRegistry,
    Handler,
    debian_registry,
    fake_registry,
    needs_registry,
    push,
)
from tests.support.tars import file, tar

LARGE = random.Random(1).randbytes(3_000_000)
LAYERS = [tar(file("a", b"1"), file("large", LARGE)), tar(file("b", b"2"))]
AT = 2_000_000


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> images.Layout:
    return images.layout(tmp_path_factory.mktemp("layout") / "app", LAYERS)


@pytest.fixture
def server(layout: images.Layout) -> Iterator[FakeRegistry]:
    with fake_registry() as server:
        server.put("app", "1.0", layout.path)
        yield server


@pytest.fixture
def stacker(tmp_path: Path) -> Stacker:
    stacker = Stacker(tmp_path / "store", environ={"HOME": str(tmp_path)})
    stacker("images")
    return stacker


def large_blob(server: FakeRegistry) -> bytes:
    return max((data for _, data in server.content.values()), key=len)


def is_large(request: Handler) -> bool:
    return len(request.registry.content.get(request.path, ("", b""))[1]) > len(LARGE)


def ranges(server: FakeRegistry) -> list[str]:
    """Give the ranges that the large layer was asked for by."""
    large = {path for path, (_, data) in server.content.items() if len(data) > len(LARGE)}
    return [asked.headers.get("range", "") for asked in server.asked if asked.path in large]


def left(stacker: Stacker) -> list[Path]:
    root = stacker.store / "partial"
    return sorted(root.iterdir()) if root.exists() else []


def stalling(
    gone: threading.Event, is_affected: Callable[[Handler], bool] = lambda _: True
) -> Callable[[Handler], bool]:
    """Give a quirk that sends the beginning of the large layer, and no more until `gone` is set."""

    def stall(request: Handler) -> bool:
        if not (is_large(request) and is_affected(request)):
            return False
        data = request.registry.content[request.path][1]
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data[:AT])
        gone.wait(PATIENCE)
        request.close_connection = True
        return True

    return stall


def killed(stacker: Stacker, server: FakeRegistry, how: int, *options: str) -> int:
    """Kill a pull in the middle of the large layer; return the size of its partial download."""
    gone = threading.Event()
    server.quirk = stalling(gone)
    process = stacker.start("pull", f"docker://{server.host}/app:1.0", *options)
    try:
        wait_until(lambda: [path.stat().st_size for path in left(stacker)] == [AT], process)
        process.send_signal(how)
        process.communicate()
    finally:
        process.kill()
        gone.set()
    server.quirk = lambda _: False
    server.asked.clear()
    return AT


def check_image(stacker: Stacker, image_id: str, tmp_path: Path) -> None:
    stacker("unpack", image_id, tmp_path / "root")
    assert (tmp_path / "root" / "large").read_bytes() == LARGE
    stacker.assert_clean(images=1, layers=2)
    assert left(stacker) == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_pull_resumes_the_download_of_a_killed_pull(
    stacker: Stacker, server: FakeRegistry, layout: images.Layout, tmp_path: Path, how: int
) -> None:
    had = killed(stacker, server, how)
    assert stacker("pull", f"docker://{server.host}/app:1.0").last == layout.image.config
    assert ranges(server) == [f"bytes={had}-{len(large_blob(server)) - 1}"]
    check_image(stacker, layout.image.config, tmp_path)


def test_blob_of_a_resumed_download_can_be_kept(
    stacker: Stacker, server: FakeRegistry, layout: images.Layout, tmp_path: Path
) -> None:
    killed(stacker, server, signal.SIGKILL)
    stacker("pull", f"docker://{server.host}/app:1.0", "--keep-blobs")
    check_image(stacker, layout.image.config, tmp_path)
    blobs = [path.read_bytes() for path in (stacker.store / "blobs" / "sha256").iterdir()]
    assert large_blob(server) in blobs


@pytest.mark.parametrize("size", [1, AT, len(LARGE), 2 * len(LARGE)])
def test_damaged_partial_download_is_discarded_and_the_whole_blob_requested(
    stacker: Stacker, server: FakeRegistry, layout: images.Layout, tmp_path: Path, size: int
) -> None:
    killed(stacker, server, signal.SIGKILL)
    (path,) = left(stacker)
    path.write_bytes(b"?" + b"?" * (size - 1))
    stacker("pull", f"docker://{server.host}/app:1.0")
    assert ranges(server)[-1] == ""
    assert ranges(server).count("") == 1
    check_image(stacker, layout.image.config, tmp_path)


def test_wrong_digest_of_the_whole_blob_is_an_error(stacker: Stacker, server: FakeRegistry) -> None:
    killed(stacker, server, signal.SIGKILL)
    for path, (kind, data) in server.content.items():
        if len(data) > len(LARGE):
            server.content[path] = (kind, data[:-1] + bytes([data[-1] ^ 1]))
    said = stacker.refused(5, "pull", f"docker://{server.host}/app:1.0")
    assert "wrong digest: blob sha256:" in said
    assert len(ranges(server)) == 2
    assert left(stacker) == []


def test_partial_download_survives_a_pull_that_gets_404(
    stacker: Stacker, server: FakeRegistry, layout: images.Layout, tmp_path: Path
) -> None:
    had = killed(stacker, server, signal.SIGKILL)
    server.quirk = lambda request: is_large(request) and request.answer(404)
    stacker.refused(3, "pull", f"docker://{server.host}/app:1.0")
    [partial] = left(stacker)
    assert partial.stat().st_size == had
    allocated = sum(path.stat().st_blocks * 512 for path in (partial, partial.parent))
    assert stacker("df", "--json").item["bytes"]["partial"] == allocated
    server.quirk = lambda _: False
    server.asked.clear()
    stacker("pull", f"docker://{server.host}/app:1.0")
    assert ranges(server) == [f"bytes={had}-{len(large_blob(server)) - 1}"]
    check_image(stacker, layout.image.config, tmp_path)


def test_no_resume_ignores_a_partial_download(
    stacker: Stacker, server: FakeRegistry, layout: images.Layout, tmp_path: Path
) -> None:
    killed(stacker, server, signal.SIGKILL)
    (path,) = left(stacker)
    stacker("pull", f"docker://{server.host}/app:1.0", "--no-resume")
    assert ranges(server) == [""]
    path.unlink()
    check_image(stacker, layout.image.config, tmp_path)


def test_pull_does_not_use_a_partial_download_that_is_locked(
    stacker: Stacker, server: FakeRegistry, tmp_path: Path
) -> None:
    import fcntl

    killed(stacker, server, signal.SIGKILL)
    (path,) = left(stacker)
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        before = path.read_bytes()
        stacker("pull", f"docker://{server.host}/app:1.0")
        assert path.read_bytes() == before
    assert ranges(server) == [""]


def test_rm_removes_old_partial_downloads(stacker: Stacker, server: FakeRegistry) -> None:
    killed(stacker, server, signal.SIGKILL)
    stacker("pull", f"docker://{server.host}/app:1.0", "--no-resume")
    os.utime(left(stacker)[0], (0, 0))
    stacker("rm", f"{server.host}/app:1.0")
    assert left(stacker) == []


@needs_registry
def test_docker_registry_serves_the_rest_of_a_blob(
    stacker: Stacker, server: FakeRegistry, layout: images.Layout, tmp_path: Path
) -> None:
    killed(stacker, server, signal.SIGKILL)
    with debian_registry(tmp_path / "registry") as host:
        push(layout.source, host, "app:1.0", "--preserve-digests")
        stacker("pull", f"docker://{host}/app:1.0")
    check_image(stacker, layout.image.config, tmp_path)


def test_download_by_parallel_ranges_resumes(stacker: Stacker, tmp_path: Path) -> None:
    noise = random.Random(2).randbytes(40_000_000)
    layout = images.layout(tmp_path / "noise", [tar(file("noise", noise))])
    with fake_registry() as server:
        server.put("app", "1.0", layout.path)
        place = f"docker://{server.host}/app:1.0"

        def breaks(request: Handler) -> bool:
            _, end = request.wanted(1) or (0, 0)
            if end <= 8 << 20:
                return False
            until = time.monotonic() + PATIENCE
            while not any(path.stat().st_size for path in left(stacker)):
                assert time.monotonic() < until
                os.sched_yield()
            return request.answer(404)

        server.quirk = breaks
        stacker.refused(3, "pull", place, "--ranges", "3")
        (path,) = left(stacker)
        had = path.stat().st_size
        assert 0 < had <= 8 << 20
        server.quirk = lambda _: False
        server.asked.clear()
        stacker("pull", place, "--ranges", "3")
        size = layout.blob(layout.image.layers[0]).stat().st_size
        asked = [a.headers["range"] for a in server.asked if "range" in a.headers]
        parts = [f"bytes={at}-{min(at + (4 << 20), size) - 1}" for at in range(had, size, 4 << 20)]
        assert sorted(asked) == sorted(parts)
    stacker("unpack", layout.image.config, tmp_path / "root")
    assert (tmp_path / "root" / "noise").read_bytes() == noise
    assert left(stacker) == []


@needs_registry
def test_docker_registry_serves_parallel_ranges(stacker: Stacker, tmp_path: Path) -> None:
    noise = random.Random(3).randbytes(30_000_000)
    layout = images.layout(tmp_path / "noise", [tar(file("noise", noise))])
    with debian_registry(tmp_path / "registry") as host:
        push(layout.source, host, "app:1.0", "--preserve-digests")
        stacker("pull", f"docker://{host}/app:1.0", "--ranges", "4")
    stacker("unpack", layout.image.config, tmp_path / "root")
    assert (tmp_path / "root" / "noise").read_bytes() == noise


def test_waiting_pull_resumes_the_download_of_a_killed_pull(
    stacker: Stacker, server: FakeRegistry, layout: images.Layout, tmp_path: Path
) -> None:
    place = f"docker://{server.host}/app:1.0"
    gone = threading.Event()
    server.quirk = stalling(gone, is_affected=lambda request: not request.headers.get("Range"))
    first = stacker.start("pull", place)
    try:
        wait_until(lambda: [path.stat().st_size for path in left(stacker)] == [AT], first)
        second = stacker.start("pull", place)
        wait_until(lambda: server.count("/manifests/") == 2, second)
        first.kill()
        out, err = second.communicate(timeout=PATIENCE)
    finally:
        gone.set()
        first.kill()
        first.communicate()
    assert (second.returncode, out.strip()) == (0, layout.image.config), err
    assert ranges(server) == ["", f"bytes={AT}-{len(large_blob(server)) - 1}"]
    check_image(stacker, layout.image.config, tmp_path)
