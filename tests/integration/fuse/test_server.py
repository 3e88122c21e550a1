"""The server processes of a FUSE mount: workers, signals, and mounts without a server."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import pytest

from stacker.errors import MountError
from stacker.fuse.daemon import Daemon
from stacker.fuse.options import FuseAdapter, FuseOptions
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import lock, mountapi, mountinfo
from stacker.mount.drivers.fuse import FuseDriver
from stacker.mount.plan import MountRequest, Plan
from stacker.operations.mount import mount_image
from stacker.store.store import Store
from tests.support import images
from tests.support.adapters import skip_without
from tests.support.command import Stacker
from tests.support.fuse_mounts import (
    LAYERS,
    eventually,
    is_clean,
    mount,
    options,
    servers,
)
from tests.support.mounts import unmount_below
from tests.support.syscalls import error_of

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="looks into processes of root"),
    pytest.mark.usefixtures("alone_among_mounts"),
]


def test_each_worker_has_its_own_channel(stacker: Stacker, target: Path) -> None:
    _, *workers = mount(stacker, target, "kernel")
    channels = [(worker, _channel(worker)) for worker in workers]
    for (one, first), (other, second) in combinations(channels, 2):
        assert not is_one_file(one, first, other, second)
    stacker("umount", target)


def _channel(process: int) -> int:
    """Return the only descriptor of /dev/fuse in a process."""
    place = Path(f"/proc/{process}/fd")
    eventually(lambda: len(_fuse_descriptors(place)) == 1)
    return _fuse_descriptors(place)[0]


def _fuse_descriptors(place: Path) -> list[int]:
    return [int(link.name) for link in place.iterdir() if os.readlink(link) == "/dev/fuse"]


def is_one_file(one: int, first: int, other: int, second: int) -> bool:
    """Return whether descriptors of two processes share an open file (kcmp(2))."""
    number = {"x86_64": 312, "aarch64": 272}.get(os.uname().machine)
    if number is None:
        pytest.skip("no number of kcmp(2) known for this machine")
    libc = ctypes.CDLL(None, use_errno=True)
    found = libc.syscall(number, one, other, 0, ctypes.c_ulong(first), ctypes.c_ulong(second))
    if found < 0:
        pytest.skip(f"kcmp: {os.strerror(ctypes.get_errno())}")
    return bool(found == 0)


def test_sigterm_unmounts_a_writable_mount(stacker: Stacker, target: Path) -> None:
    words = ("--driver", "fuse", "--fuse-writer", "server", "--rw", "app:1.0", target)
    stacker("mount", *words)
    first, worker = servers(target)
    os.kill(worker, signal.SIGTERM)  # the worker ignores it, since it cannot be replaced
    (target / "new").write_bytes(b"x")
    os.kill(first, signal.SIGTERM)
    eventually(lambda: not servers(target))
    assert mountinfo.at(target) is None
    is_clean(stacker)


def test_busy_fuse_mount_needs_a_lazy_umount(
    stacker: Stacker, target: Path, adapter: FuseAdapter
) -> None:
    mount(stacker, target, adapter)
    with (target / "big").open("rb") as held:
        stacker.refused(9, "umount", target)
        stacker("umount", "--lazy", target)
        assert mountinfo.at(target) is None
        assert len(held.read()) == 3 << 20
    eventually(lambda: not servers(target))


def test_dead_worker_is_replaced(stacker: Stacker, target: Path, adapter: FuseAdapter) -> None:
    first, *workers = mount(stacker, target, adapter)
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    eventually(lambda: len(set(servers(target)) - {first, *workers}) == len(workers))
    assert (target / "etc/kept").read_bytes() == b"changed"
    assert first in servers(target)
    stacker("umount", target)
    eventually(lambda: not servers(target))


def test_workers_survive_their_supervisor(
    stacker: Stacker, target: Path, adapter: FuseAdapter
) -> None:
    first, *_ = mount(stacker, target, adapter)
    os.kill(first, signal.SIGKILL)
    assert (target / "etc/kept").read_bytes() == b"changed"
    stacker("umount", target)
    eventually(lambda: not servers(target))


def test_sigterm_unmounts_a_read_only_mount(
    stacker: Stacker, target: Path, adapter: FuseAdapter
) -> None:
    first, *_ = mount(stacker, target, adapter)
    os.kill(first, signal.SIGTERM)
    eventually(lambda: not servers(target))
    assert mountinfo.at(target) is None
    is_clean(stacker)


def killed(stacker: Stacker, target: Path, adapter: FuseAdapter, *more: str) -> None:
    """Mount, kill all processes of the mount, and check that no request is answered."""
    stacker("mount", *options(adapter), *more, "app:1.0", target)
    first, *_ = servers(target)
    os.stat(target)  # the kernel answers from its cache
    os.killpg(os.getpgid(first), signal.SIGKILL)
    eventually(lambda: not servers(target))
    eventually(lambda: error_of(lambda: os.listdir(target)) == errno.ENOTCONN)


def test_mounts_clears_a_mount_without_a_server(
    stacker: Stacker, target: Path, adapter: FuseAdapter
) -> None:
    killed(stacker, target, adapter)
    listed = stacker("mounts", "--json").document
    assert listed["items"] == []
    assert [item["target"] for item in listed["cleared"]] == [str(target)]
    assert os.listdir(target) == []
    is_clean(stacker)
    mount(stacker, target, adapter)
    stacker("umount", target)


@pytest.mark.parametrize("more", [(), ("--rw",)], ids=["read-only", "--rw"])
def test_mount_replaces_a_mount_without_a_server(
    stacker: Stacker, target: Path, more: tuple[str, ...]
) -> None:
    killed(stacker, target, "kernel", *more)
    stacker("mount", *options("kernel"), *more, "app:1.0", target)
    assert (target / "etc/kept").read_bytes() == b"changed"
    stacker("umount", target)
    eventually(lambda: not servers(target))
    is_clean(stacker)


@pytest.mark.usefixtures("forks")
def test_server_that_is_killed_before_it_answers_leaves_no_mount(
    stacker: Stacker, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Daemon, "start_workers", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    store = Store.open(stacker.store)
    with pytest.raises(MountError, match="the server process died"):
        mount_image(store, "app:1.0", MountRequest(target, "fuse"))
    assert mountinfo.at(target) is None
    is_clean(stacker)


def test_a_process_with_threads_starts_the_server_without_a_fork(
    stacker: Stacker, target: Path, adapter: FuseAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fork() -> int:
        raise AssertionError("a process with threads forked")

    monkeypatch.setattr("os.fork", fork)
    request = MountRequest(target, "fuse", fuse=FuseOptions(adapter))
    with ThreadPoolExecutor(1) as threads:
        threads.submit(mount_image, Store.open(stacker.store), "app:1.0", request).result()
    assert (target / "etc/kept").read_bytes() == b"changed"
    stacker("umount", target)
    is_clean(stacker)


@pytest.mark.usefixtures("forks")
def test_server_that_cannot_fork_its_workers_names_the_cause_and_leaves_no_mount(
    stacker: Stacker, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(Daemon, "_start_worker", fail)
    with pytest.raises(MountError, match=os.strerror(errno.EAGAIN)):
        mount_image(Store.open(stacker.store), "app:1.0", MountRequest(target, "fuse"))
    assert mountinfo.at(target) is None
    is_clean(stacker)


def mount_dead(target: Path) -> None:
    """Mount a FUSE filesystem of another program, whose server has ended."""
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    mountapi.mount("other", target, "fuse.other", 0, options)
    os.close(device)


def test_dead_mount_below_another_dead_mount_stops_neither_gc_nor_mounts(
    stacker: Stacker, target: Path
) -> None:
    first, *_ = mount(stacker, target, "kernel")
    mount_dead(target)
    os.killpg(os.getpgid(first), signal.SIGKILL)
    eventually(lambda: not servers(target))
    stacker("gc")
    assert [item["target"] for item in stacker("mounts", "--json").items] == [str(target)]
    error = stacker.refused(9, "umount", target)
    again = f"stacker --store {stacker.store} umount {target}"
    assert error.endswith(f"hint: umount {target} && {again}\n")
    subprocess.run(["umount", target], check=True)
    stacker("umount", target)
    is_clean(stacker)


def test_mount_on_a_dead_mount_of_another_program_is_refused(
    stacker: Stacker, target: Path
) -> None:
    mount_dead(target)
    error = stacker.refused(9, "mount", "app:1.0", target)
    assert f"cannot use mount target: {target}: Transport endpoint is not connected\n" in error
    assert error.endswith(f"hint: umount {target}\n")


@pytest.mark.parametrize("words", [("kernel",), ("kernel", "--rw"), ("pyfuse3",)], ids=" ".join)
def test_umount_clears_a_mount_without_a_server(
    stacker: Stacker, target: Path, words: tuple[FuseAdapter, ...]
) -> None:
    skip_without(words[0])
    killed(stacker, target, *words)
    stacker("umount", target)
    assert os.listdir(target) == []
    is_clean(stacker)


def test_error_in_the_server_reaches_the_caller(
    stacker: Stacker, target: Path, adapter: FuseAdapter
) -> None:
    for skeleton in (stacker.store / "layers").rglob("skeleton.tar.zst"):
        skeleton.write_bytes(skeleton.read_bytes()[:-8])
    message = stacker.refused(5, "mount", *options(adapter), "app:1.0", target)
    assert "damaged skeleton" in message
    assert not servers(target)
    is_clean(stacker)


def test_server_keeps_no_descriptor_and_lock_of_the_caller(
    tmp_path: Path, adapter: FuseAdapter
) -> None:
    layer, target = tmp_path / "layer", tmp_path / "target"
    for path in (layer, target):
        path.mkdir()
    plan = Plan("keepsnothing", target, (layer,), WhiteoutFormat.USER, fuse=FuseOptions(adapter))
    with lock.exclusive(tmp_path / "lock"):
        note = FuseDriver().mount(plan).note or ""
    try:
        again = lock.try_exclusive(tmp_path / "lock")
        assert again is not None
        again.release()
        number = int(note.split()[1])
        assert os.readlink(f"/proc/{number}/cwd") == "/"
        assert os.getsid(number) != os.getsid(0)
    finally:
        mountapi.umount2(target)


@pytest.mark.parametrize("form", ["tree", "erofs"])
@pytest.mark.parametrize("words", [(), ("--rw",), ("--fuse-passthrough",)], ids=" ".join)
def test_filesystem_of_the_store_can_be_unmounted_right_after_umount(
    tmp_path: Path, form: str, words: tuple[str, ...]
) -> None:
    disk, target = tmp_path / "disk", tmp_path / "target"
    for directory in (disk, target):
        directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], check=True)
    try:
        stacker = Stacker(disk / "store")
        source = images.layout(tmp_path / "app", LAYERS).source
        stacker("pull", "--sync", "--form", form, source)
        for _ in range(5):
            stacker("mount", "--driver", "fuse", *words, "app:1.0", target)
            assert (target / "etc/kept").read_bytes() == b"changed"
            stacker("umount", target)
            mountapi.umount2(disk)  # EBUSY if a process has a file of it open
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], check=True)
            stacker("pull", "--sync", "--form", form, source)
    finally:
        unmount_below(tmp_path)


def test_umount_gives_up_waiting_for_a_server_that_has_another_mount(
    stacker: Stacker, target: Path, tmp_path: Path
) -> None:
    (tmp_path / "second").mkdir()
    mount(stacker, target, "kernel")
    subprocess.run(["mount", "--bind", target, tmp_path / "second"], check=True)
    stacker("umount", target)
    assert (tmp_path / "second/etc/kept").read_bytes() == b"changed"
