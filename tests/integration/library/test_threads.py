"""The library in processes with threads, in asyncio, and when the caller stops it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stacker import Event, Image, LayerProgress, Store
from tests.support import images
from tests.support.command import PATH, Stacker
from tests.support.tars import file, tar

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts: needs root")


class StoppedError(Exception):
    """The caller stops a method."""


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Yield a pool with two threads that run already, so that a fork would be unsafe."""
    with ThreadPoolExecutor(2) as pool:
        barrier = threading.Barrier(2)
        list(pool.map(lambda _: barrier.wait(), range(2)))
        yield pool


@pytest.fixture
def no_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a fork, and a change of the umask, an error."""

    def refuse(*_: object) -> int:
        raise AssertionError("it concerns the other threads")

    monkeypatch.setattr("os.fork", refuse)
    monkeypatch.setattr("os.umask", refuse)


def layouts(tmp_path: Path, count: int) -> list[images.Layout]:
    return [
        images.layout(
            tmp_path / f"app{number}", [tar(file("shared", b"1")), tar(file(f"f{number}", b"2"))]
        )
        for number in range(count)
    ]


@pytest.mark.usefixtures("no_fork")
def test_threads_pull_verify_push_and_remove_at_the_same_time(
    store: Store, tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    def work(layout: images.Layout) -> Image:
        image = store.pull(layout.source)
        assert store.verify(image).is_sound
        store.push(image, f"oci:{layout.path}-out:1")
        return image

    made = layouts(tmp_path, 4)
    found = list(threads.map(work, made))
    assert [str(image.id) for image in found] == [layout.image.config for layout in made]
    assert len(store.images()) == 4
    list(threads.map(store.remove, found))
    Stacker(store.root).assert_clean(layers=0)


@needs_root
@pytest.mark.usefixtures("alone_among_mounts", "no_fork")
@pytest.mark.parametrize("driver", ["overlay", "fuse", "copy"])
def test_threads_mount_an_image_at_several_targets(
    store: Store, tmp_path: Path, threads: ThreadPoolExecutor, driver: str
) -> None:
    image = store.pull(layouts(tmp_path, 1)[0].source)

    def work(number: int) -> bytes:
        target = tmp_path / f"target{number}"
        target.mkdir()
        with store.mount(image, target, driver=driver) as mount:
            assert mount.driver == driver
            return (target / "f0").read_bytes()

    assert list(threads.map(work, range(4))) == [b"2"] * 4
    assert store.mounts() == []
    Stacker(store.root).assert_clean(images=1)


@needs_root
@pytest.mark.usefixtures("alone_among_mounts", "no_fork")
def test_an_asyncio_program_pulls_and_mounts_by_to_thread(store: Store, tmp_path: Path) -> None:
    async def one(layout: images.Layout) -> bytes:
        image = await asyncio.to_thread(store.pull, layout.source)
        target = layout.path.with_suffix(".target")
        target.mkdir()
        mount = await asyncio.to_thread(store.mount, image, target)
        try:
            return (target / "shared").read_bytes()
        finally:
            await asyncio.to_thread(mount.unmount)

    async def program() -> list[bytes]:
        return await asyncio.gather(*map(one, layouts(tmp_path, 3)))

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Python 3.12 warns about a fork in a process with threads
        assert asyncio.run(program()) == [b"1"] * 3
    assert store.mounts() == []


def stop_at(event: Event) -> None:
    if isinstance(event, LayerProgress):
        raise StoppedError


@pytest.mark.parametrize("threaded", [False, True])
def test_an_exception_of_the_callback_stops_a_pull_and_leaves_nothing(
    store: Store, tmp_path: Path, threads: ThreadPoolExecutor, *, threaded: bool
) -> None:
    source = layouts(tmp_path, 1)[0].source

    def pull() -> None:
        store.pull(source, on_event=stop_at)

    with pytest.raises(StoppedError):
        threads.submit(pull).result() if threaded else pull()
    assert store.images() == []
    Stacker(store.root).assert_clean()
    assert store.pull(source).names == ("app:1.0",)


PROGRAM = """
import os, signal, sys, threading
from pathlib import Path
from stacker import Store
threading.Thread(target=threading.Event().wait, daemon=True).start()
store = Store.open(sys.argv[1])
def interrupt(event):
    if type(event).__name__ == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGINT)
try:
    image = store.pull(sys.argv[2], on_event=interrupt)
    with store.mount(image, sys.argv[4], driver=sys.argv[5]):
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait()
except KeyboardInterrupt:
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    print("interrupted", *(path.read_text() for path in children))
"""


@needs_root
@pytest.mark.usefixtures("alone_among_mounts")
@pytest.mark.parametrize("event", ["LayersFound", "LayerProgress", "LayerUnpacked", "none"])
@pytest.mark.parametrize("driver", ["overlay", "fuse"])
def test_ctrl_c_leaves_no_mount_no_process_and_no_unfinished_work(
    store: Store, tmp_path: Path, target: Path, event: str, driver: str
) -> None:
    source = layouts(tmp_path, 1)[0].source
    words = [sys.executable, "-c", PROGRAM, str(store.root), source, event, str(target), driver]
    done = subprocess.run(
        words, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": PATH}
    )
    assert (done.stdout.split(), done.stderr) == (["interrupted"], "")
    assert store.mounts() == []
    assert os.listdir(store.root / "staging") == []
    assert os.listdir(store.root / "mounts") == []
    assert store.verify().is_sound
