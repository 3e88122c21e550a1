"""The state of a recorded mount after reboots, in namespaces, and after other programs' umount."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from stacker.linux import mountapi
from stacker.mount.state import KernelView, State

if TYPE_CHECKING:
    from stacker.mount.record import MountRecord
    from tests.support.bench import Bench
from tests.support.command import started

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount"),
    pytest.mark.usefixtures("alone_among_mounts"),
]


def state(record: MountRecord) -> State:
    return KernelView().state(record)


def overlay(bench: Bench) -> MountRecord:
    request = bench.request(driver="overlay")
    return bench.mount(request, bench.layer("a", f="a"), bench.layer("b"))[0]


def bind(bench: Bench) -> MountRecord:
    request = bench.request(driver="overlay")
    return bench.mount(request, bench.layer("a", f="a"), plain=True)[0]


def copy(bench: Bench) -> MountRecord:
    layers = bench.layer("a", f="a"), bench.layer("b")
    return bench.mount(bench.request(driver="copy"), *layers)[0]


Maker = Callable[["Bench"], "MountRecord"]
every_form = pytest.mark.parametrize("make", [overlay, bind, copy])
every_mount = pytest.mark.parametrize("make", [overlay, bind])


@contextmanager
def another_namespace() -> Iterator[int]:
    """Start a process in a private copy of our mount namespace."""
    with started(["unshare", "--mount", "sh", "-c", "echo ready; read line"], b"ready\n") as child:
        yield child


@every_form
def test_new_mount_is_mounted(bench: Bench, make: Maker) -> None:
    assert state(make(bench)) == "mounted"


@every_mount
def test_mount_that_another_program_unmounted_is_stale(bench: Bench, make: Maker) -> None:
    record = make(bench)
    subprocess.run(["umount", bench.target], check=True)
    assert state(record) == "stale"


@every_mount
def test_mount_of_another_boot_is_stale(bench: Bench, make: Maker) -> None:
    assert state(replace(make(bench), boot_id="another")) == "stale"


def test_copy_survives_a_reboot(bench: Bench) -> None:
    record = copy(bench)
    mountapi.umount2(bench.target)
    assert state(replace(record, boot_id="another", mount_namespace=1)) == "mounted"


def test_copy_on_a_tmpfs_is_stale_after_a_reboot(bench: Bench) -> None:
    memory = bench.path / "memory"
    memory.mkdir()
    mountapi.mount("tmpfs", memory, "tmpfs", 0)
    (memory / "target").mkdir()
    request = replace(bench.request(driver="copy"), target=memory / "target")
    record = bench.mount(request, bench.layer("a", f="a"))[0]
    mountapi.umount2(memory / "target")
    assert state(record) == "mounted"
    assert state(replace(record, boot_id="another")) == "stale"


def test_copy_in_a_replaced_directory_is_stale(bench: Bench) -> None:
    record = copy(bench)
    mountapi.umount2(bench.target)
    bench.target.rename(bench.path / "moved")
    assert state(record) == "stale"
    bench.target.mkdir()
    assert state(record) == "stale"


def test_covered_copy_is_not_stale(bench: Bench) -> None:
    record = copy(bench)
    mountapi.mount("over", bench.target, "tmpfs", 0)
    assert state(record) == "mounted"


def test_bind_replaced_by_another_mount_is_stale(bench: Bench) -> None:
    record = bind(bench)
    mountapi.umount2(bench.target)
    mountapi.mount("other", bench.target, "tmpfs", 0)
    assert state(record) == "stale"


def test_covered_overlay_is_not_stale(bench: Bench) -> None:
    record = overlay(bench)
    mountapi.mount("over", bench.target, "tmpfs", 0)
    assert state(record) == "mounted"


def test_moved_overlay_is_not_stale(bench: Bench) -> None:
    record = overlay(bench)
    (bench.path / "moved").mkdir()
    subprocess.run(["mount", "--bind", bench.target, bench.path / "moved"], check=True)
    mountapi.umount2(bench.target)
    assert state(record) == "mounted"


def test_bind_of_a_removed_layer_is_not_stale(bench: Bench) -> None:
    record = bind(bench)
    (record.layers[0] / "f").unlink()
    record.layers[0].rmdir()
    assert state(record) == "mounted"


@every_mount
def test_mount_in_a_live_namespace_is_elsewhere(bench: Bench, make: Maker) -> None:
    record = make(bench)
    with another_namespace() as pid:
        theirs = os.stat(f"/proc/{pid}/ns/mnt").st_ino
        mountapi.umount2(bench.target)  # unshare made the copy private, so the mount stays there
        assert state(replace(record, mount_namespace=theirs)) == "elsewhere"
    assert state(replace(record, mount_namespace=theirs)) == "stale"


def test_overlay_in_a_copy_of_our_namespace_is_elsewhere(bench: Bench) -> None:
    record = overlay(bench)
    with another_namespace():
        mountapi.umount2(bench.target)
        assert state(record) == "elsewhere"
    assert state(record) == "stale"


@every_mount
def test_mount_missing_from_its_live_namespace_is_stale(bench: Bench, make: Maker) -> None:
    record = make(bench)
    mountapi.umount2(bench.target)
    with another_namespace() as pid:
        theirs = os.stat(f"/proc/{pid}/ns/mnt").st_ino
        assert state(replace(record, mount_namespace=theirs)) == "stale"
