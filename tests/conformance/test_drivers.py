"""Every mount driver: the same tree, the same writes, a clean unmount."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from stacker.errors import StackerError, UnsupportedError
from stacker.fuse.options import FuseAdapter, FuseOptions
from stacker.layer.paths import Form, Stack
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import mountinfo
from stacker.linux.mountapi import umount2
from stacker.mount.drivers.copy import CopyDriver
from stacker.mount.drivers.fuse import FuseDriver
from stacker.mount.drivers.fuse_overlayfs import PROGRAM, FuseOverlayfsDriver
from stacker.mount.drivers.overlay import OverlayDriver
from stacker.mount.drivers.protocol import Driver
from stacker.mount.plan import MountRequest, Plan, StackedImage
from tests.support.adapters import ADAPTERS, skip_without
from tests.support.indexes import merged_stack
from tests.support.mounts import mount_record
from tests.support.sequential import Item, Sequential
from tests.support.snapshot import snapshot
from tests.support.stacks import D, F, L, O, S, W, archive, layer_paths, scratch, unpacked_stack

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts: needs root")


@dataclass(frozen=True, slots=True)
class Way:
    """A mount driver, with its adapter if it has several, and the form of the layers."""

    driver: Driver
    fuse_adapter: FuseAdapter = "kernel"
    form: Form = "tree"


WAYS = {
    "overlay": Way(OverlayDriver()),
    "overlay by mount(2)": Way(OverlayDriver(api="mount2")),
    "overlay of an index": Way(OverlayDriver(), form="erofs"),
    **{f"fuse by {adapter}": Way(FuseDriver(), adapter) for adapter in ADAPTERS},
    **{
        f"fuse of an index by {adapter}": Way(FuseDriver(), adapter, "erofs")
        for adapter in ADAPTERS
    },
    "copy": Way(CopyDriver()),
    "fuse-overlayfs": Way(FuseOverlayfsDriver()),
}
WRITING = [name for name in WAYS if "pyfuse3" not in name]
STACK = (
    (
        Item("directory", "", mode=0o711, mtime=1_000_000_000),
        Item("directory", "etc", mode=0o1755, uid=3, gid=4, mtime=2_000_000_000),
        Item("file", "etc/a", b"lower", mode=0o4755, mtime=3_000_000_000),
        Item("file", "etc/x", b"x", xattrs=(("user.kind", b"\0\xff"), ("trusted.t", b"1"))),
        D("usr"),
        D("usr/lib"),
        S("lib", "usr/lib"),
        F("gone"),
        D("emptied"),
        F("emptied/old"),
        Item("fifo", "pipe"),
    ),
    (W("gone"), O("emptied"), F("emptied/new"), F("lib/y"), L("etc/b", "etc/a")),
    (F("etc/c"), Item("file", "etc/a", b"upper", mode=0o600), W("etc/x"), L("d", "etc/c")),
)


@pytest.fixture
def workspace() -> Iterator[Path]:
    with scratch() as directory:
        yield directory


@pytest.fixture(params=list(WhiteoutFormat), ids=lambda form: form.value)
def stack(request: pytest.FixtureRequest, workspace: Path) -> Stack:
    way: Way = request.getfixturevalue("way" if "way" in request.fixturenames else "writer")
    stacked = unpacked_stack if way.form == "tree" else merged_stack
    return stacked([archive(layer) for layer in STACK], workspace, request.param)


def installed(way: Way) -> Way:
    """Skip the test if a requirement is not installed."""
    if way.driver.name == "fuse":
        skip_without(way.fuse_adapter)
    if way.driver.name == PROGRAM and shutil.which(PROGRAM) is None:
        pytest.skip(f"no {PROGRAM}")
    return way


@pytest.fixture(params=WAYS, ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    return installed(WAYS[request.param])


@pytest.fixture(params=WRITING, ids=str)
def writer(request: pytest.FixtureRequest) -> Way:
    return installed(WAYS[request.param])


class Mount:
    """A mount that is unmounted at the end."""

    def __init__(
        self,
        way: Way,
        stack: Stack,
        workspace: Path,
        *,
        read_only: bool = True,
        upper: Path | None = None,
        plain: bool = False,
    ) -> None:
        self.driver = driver = way.driver
        self.target = workspace / "target"
        self.target.mkdir(exist_ok=True)
        own = workspace / "mount"
        own.mkdir(exist_ok=True)
        image = StackedImage("image", replace(stack, plain=plain), layer_paths(stack))
        request = MountRequest(self.target, read_only=read_only, upper=upper)
        plan = request.plan(image, "conformance", own)
        self.plan: Plan = replace(plan, fuse=FuseOptions(way.fuse_adapter))
        for directory in self.plan.directories:
            directory.mkdir(exist_ok=True)
        status = self.target.stat()
        self.record = mount_record(
            self.target,
            id="conformance",
            driver=driver.name,
            read_only=self.plan.read_only,
            upper=self.plan.upper,
            layers=self.plan.layers,
            target_inode=status.st_ino,
            target_mode=(status.st_mode & 0o7777, status.st_uid, status.st_gid),
        )

    def __enter__(self) -> Path:
        mounted = self.driver.mount(self.plan)
        self.record = replace(self.record, server=mounted.server, served=mounted.served)
        return self.target

    def __exit__(self, *error: object) -> None:
        self.driver.unmount(self.record)
        index = self.plan.index_directory  # the mount table unmounts it
        if index is not None and mountinfo.at(index) is not None:
            umount2(index)


def expected() -> dict[bytes, object]:
    reference = Sequential()
    for layer in STACK:
        reference.apply(layer)
    return dict(reference.snapshot())


def test_mount_equals_applying_the_layers_in_turn(way: Way, stack: Stack, workspace: Path) -> None:
    with Mount(way, stack, workspace) as target:
        assert snapshot(target) == expected()


def test_read_only_mount_refuses_writes(way: Way, stack: Stack, workspace: Path) -> None:
    with Mount(way, stack, workspace) as target:
        with pytest.raises(OSError, match="Read-only"):
            (target / "new").write_text("x")
        with pytest.raises(OSError, match="Read-only"):
            (target / "etc" / "c").unlink()


def test_writes_are_visible_and_change_no_layer(writer: Way, stack: Stack, workspace: Path) -> None:
    before = _layers(stack)
    with Mount(writer, stack, workspace, read_only=False) as target:
        (target / "etc" / "a").write_text("changed")
        (target / "etc" / "c").unlink()
        (target / "new").mkdir()
        (target / "new" / "file").write_text("n")
        (target / "emptied" / "new").rename(target / "new" / "moved")
        (target / "d").chmod(0o700)
        assert (target / "etc" / "a").read_text() == "changed"
        assert sorted(os.listdir(target / "etc")) == ["a", "b"]
        assert sorted(os.listdir(target / "new")) == ["file", "moved"]
        assert os.listdir(target / "emptied") == []
        assert (target / "etc" / "b").read_text() == "lower"
    assert _layers(stack) == before


def _layers(stack: Stack) -> list[object]:
    return [
        *(snapshot(directory) for directory in stack.directories),
        *(tar.read_bytes() for tar in stack.tars),
    ]


def test_unmount_leaves_nothing_behind(way: Way, stack: Stack, workspace: Path) -> None:
    with Mount(way, stack, workspace) as target:
        assert os.listdir(target)
    assert os.listdir(target) == []
    assert mountinfo.at(target) is None


def test_writes_in_an_upper_directory_survive_a_remount(
    writer: Way, stack: Stack, workspace: Path
) -> None:
    upper = workspace / "upper"
    mount = Mount(writer, stack, workspace, read_only=False, upper=upper)
    if writer.driver.name in {"copy", PROGRAM}:
        refusal = writer.driver.refusal(mount.plan)
        assert isinstance(refusal, UnsupportedError)
        return
    with mount as target:
        (target / "kept").write_text("k")
        (target / "etc" / "c").unlink()
    assert (upper / "kept").read_text() == "k"
    with Mount(writer, stack, workspace, read_only=False, upper=upper) as target:
        assert (target / "kept").read_text() == "k"
        assert not (target / "etc" / "c").exists()


def test_capable_driver_refuses_nothing(way: Way, stack: Stack, workspace: Path) -> None:
    refusal: StackerError | None = way.driver.refusal(Mount(way, stack, workspace).plan)
    assert refusal is None
