"""The supervisor of a FUSE mount, without a kernel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.fuse.daemon import Daemon
from stacker.fuse.options import ServedTree
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import mountapi, mountinfo, process
from stacker.linux.mountinfo import MountInfo, MountTable

if TYPE_CHECKING:
    import pytest

TREE = ServedTree(Path("/target"), "stacker:0a", (Path("/layer"),), WhiteoutFormat.USER)


def test_unmount_spares_a_later_mount_with_the_same_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read(*_: object) -> MountTable:
        return MountTable(mounts)

    unmounted: list[Path] = []
    ours = mountinfo.parse(b"36 35 0:42 / /target ro - fuse.stacker stacker:0a ro\n").mounts[0]
    daemon = Daemon(TREE)
    daemon._mounted = (ours.device, ours.fstype, ours.source)
    later = replace(ours, mount_point=Path("/other"), fstype="tmpfs", source="tmpfs")
    mounts: tuple[MountInfo, ...] = (ours, later)
    monkeypatch.setattr(mountinfo, "read", read)
    monkeypatch.setattr(process, "has_capability", lambda _: True)
    monkeypatch.setattr(mountapi, "umount2", lambda target, _: unmounted.append(target))
    daemon.unmount()
    mounts = (later,)
    daemon.unmount()
    assert unmounted == [Path("/target")]
