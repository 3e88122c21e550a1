"""`Store.run` in programs with one thread and with several."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stacker import NotFoundError, StartError, Store
from tests.support import runtimes

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not runtimes.BUSYBOX.exists(), reason="needs root and busybox"
)


@pytest.fixture
def image(store: Store, tmp_path: Path) -> str:
    """Pull an image with busybox."""
    return str(store.pull(runtimes.layout(tmp_path / "layout", Cmd=["true"]).source).id)


def output_of(store: Store, image: str, *command: str, runtime: str) -> tuple[int, bytes]:
    read, write = os.pipe()
    with open(read, "rb") as file:
        try:
            done = store.run(image, command, stdout=write, runtime=runtime, env={"A": "1"})
        finally:
            os.close(write)
        return done.exit_code, file.read()


@pytest.mark.parametrize("runtime", ["chroot", "runc"])
def test_threads_run_processes_at_the_same_time(store: Store, image: str, runtime: str) -> None:
    script = "echo $A $$; exit 3"
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(output_of, store, image, "sh", "-c", script, runtime=runtime)
            for _ in range(4)
        ]
        assert {run.result() for run in runs} == {(3, b"1 1\n")}
    assert os.listdir(store.root / "mounts") == []


@pytest.mark.usefixtures("forks")
def test_program_with_one_thread_forks_the_process(store: Store, image: str) -> None:
    done = store.run(image, runtime="chroot")
    assert (done.exit_code, done.mount) == (0, None)


def test_failures_are_exceptions_and_leave_nothing(store: Store, image: str) -> None:
    with pytest.raises(StartError) as failure:
        store.run(image, ["missing"], runtime="chroot")
    assert failure.value.exit_code == 127
    with pytest.raises(NotFoundError):
        store.run(image, user="nobody", runtime="chroot")
    assert os.listdir(store.root / "mounts") == []


def test_kept_mount_has_the_writes(store: Store, image: str) -> None:
    done = store.run(image, ["touch", "/new"], runtime="chroot", keep=True)
    assert done.mount is not None
    with done.mount as mount:
        assert (mount.target / "new").exists()
    assert os.listdir(store.root / "mounts") == []
