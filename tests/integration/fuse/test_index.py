"""FUSE mounts of layers in EROFS form: the server reads the index and the tars."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stacker.erofs import format as on_disk
from stacker.erofs.read import Image
from stacker.errors import UnsupportedError
from stacker.fuse.options import FuseOptions, Owners
from stacker.layer.paths import MergedIndex
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import inode_attributes, mountapi
from stacker.mount.drivers import fuse_overlayfs
from stacker.mount.drivers.fuse import FuseDriver
from stacker.mount.plan import Plan
from tests.support.command import Stacker
from tests.support.fuse_mounts import pulled
from tests.support.indexes import merged_stack
from tests.support.mounts import unmount_below
from tests.support.snapshot import inode_numbers
from tests.support.tars import dir, file, hardlink, symlink, tar, whiteout  # noqa: A004 - the word for it

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts by the driver: needs root"),
    pytest.mark.usefixtures("alone_among_mounts"),
]
BIG = os.urandom(3 << 20)
LAYERS = [
    tar(
        dir("etc/", mode=0o750, uid=1, gid=2),
        file("etc/gone", b"old"),
        file("etc/kept", b"kept", xattrs={"user.note": b"1"}),
        file("big", BIG, uid=3, gid=4),
        symlink("link", "etc/kept"),
    ),
    tar(file("etc/kept", b"changed"), whiteout("etc/gone"), hardlink("more", "big")),
]


@pytest.fixture
def stacker(tmp_path: Path) -> Iterator[Stacker]:
    with pulled(tmp_path, LAYERS, "erofs") as stacker:
        yield stacker


def test_inode_numbers_are_the_same_in_each_mount(stacker: Stacker, target: Path) -> None:
    seen = []
    for _ in range(2):
        stacker("mount", "--driver", "fuse", "app:1.0", target)
        assert (target / "etc/kept").read_bytes() == b"changed"
        assert (target / "more").read_bytes() == BIG
        assert not (target / "etc/gone").exists()
        seen.append(inode_numbers(target))
        stacker("umount", target)
        assert os.listdir(target) == []
    assert seen[0] == seen[1]
    assert seen[0]["big"] == seen[0]["more"]


def test_writes_on_an_index_stay_in_the_upper_directory(
    stacker: Stacker, target: Path, tmp_path: Path
) -> None:
    upper = tmp_path / "upper"
    for start in (b"A", b"B"):
        words = ("--driver", "fuse", "--fuse-writer", "server", "--upper", upper)
        stacker("mount", *words, "app:1.0", target)
        with (target / "big").open("r+b") as opened:
            opened.write(start)
        assert (target / "more").read_bytes() == start + BIG[1:]
        stacker("umount", target)
    assert (upper / "big").samefile(upper / "more")
    stacker("mount", "--driver", "fuse", "--rw", "app:1.0", target)
    assert (target / "big").read_bytes() == BIG


def test_passthrough_of_an_index_is_off_with_a_note(stacker: Stacker, target: Path) -> None:
    options = ("--json", "--driver", "fuse", "--fuse-passthrough")
    report = stacker("mount", *options, "app:1.0", target).document["item"]
    assert "no passthrough: the files are parts of the layers' tars" in report["note"]
    assert (target / "big").read_bytes() == BIG


@pytest.fixture
def plan(tmp_path: Path, target: Path) -> Iterator[Plan]:
    stack = merged_stack(LAYERS, tmp_path, WhiteoutFormat.USER)
    assert stack.merged is not None
    yield Plan("index", target, (tmp_path,), WhiteoutFormat.USER, merged=stack.merged)
    unmount_below(tmp_path)


def test_owners_of_an_index_can_be_squashed(plan: Plan) -> None:
    owners = FuseOptions(users=Owners(squashed=55), groups=Owners(squashed=66))
    FuseDriver().mount(replace(plan, fuse=owners))
    for path in (plan.target, plan.target / "etc", plan.target / "big"):
        assert (path.lstat().st_uid, path.lstat().st_gid) == (55, 66)


def test_damaged_index_is_eio_and_the_server_continues(plan: Plan, tmp_path: Path) -> None:
    assert plan.merged is not None
    data = bytearray(plan.merged.path.read_bytes())
    image = Image(bytes(data), "test")
    root = image.inode(image.superblock.root)
    nid = image.lookup(root, b"big")
    assert nid is not None
    place = on_disk.aligned(image.inode(nid).tail, on_disk.CHUNK_INDEX.size)
    on_disk.CHUNK_INDEX.pack_into(data, place, 0, 999, 0)
    damaged = tmp_path / "damaged.erofs"
    damaged.write_bytes(data)
    FuseDriver().mount(replace(plan, merged=MergedIndex(damaged, plan.merged.tars)))
    for _ in range(2):
        with pytest.raises(OSError) as caught:
            (plan.target / "big").read_bytes()
        assert caught.value.errno == errno.EIO
        assert (plan.target / "etc/kept").read_bytes() == b"changed"
    mountapi.umount2(plan.target, 0)


def test_read_only_upper_over_an_index_is_refused(plan: Plan, tmp_path: Path) -> None:
    refusal = FuseDriver().refusal(replace(plan, upper=tmp_path, read_only=True))
    assert isinstance(refusal, UnsupportedError)
    assert "EROFS form" in str(refusal)


def test_fuse_overlayfs_refuses_an_index_with_a_hint(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuse_overlayfs, "_find_program", lambda: "/bin/true")
    refusal = fuse_overlayfs.FuseOverlayfsDriver().refusal(plan)
    assert isinstance(refusal, UnsupportedError)
    assert "EROFS form" in str(refusal)
    assert refusal.hint == "use --driver fuse"


@pytest.mark.parametrize("words", [(), ("--rw",)], ids=" ".join)
def test_file_of_an_index_has_no_birth_time_and_no_flags(
    stacker: Stacker, target: Path, words: tuple[str, ...]
) -> None:
    stacker("mount", "--driver", "fuse", *words, "app:1.0", target)
    for name in ("big", "etc"):
        file = os.open(target / name, os.O_RDONLY)
        assert inode_attributes.birth_time(file) is None
        assert inode_attributes.file_flags(file) == 0
        os.close(file)


def test_new_file_on_an_index_has_birth_time_and_flags(stacker: Stacker, target: Path) -> None:
    stacker("mount", "--driver", "fuse", "--rw", "app:1.0", target)
    with (target / "new").open("wb") as new:
        assert inode_attributes.birth_time(new.fileno()) is not None
        inode_attributes.file_flags(new.fileno())
