"""Verifying a layer in one pass gives what comparing attributes and contents apart gives."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from stacker.image.digest import DiffID
from stacker.jobs import verify_layer as module
from stacker.jobs.verify_layer import LayerVerified, VerifyTask, verify_layer
from stacker.store.store import Store
from tests.support.store import unpack
from tests.support.tars import dir as folder
from tests.support.tars import file, hardlink, sparse_01, symlink, tar

LARGE = random.Random(1).randbytes(400_000)
LAYER = tar(
    folder("d/", mode=0o750),
    file("d/a", b"1" * 700, mode=0o640),
    file("d/large", LARGE),
    file("d/noted", b"2", xattrs={"user.note": b"yes"}),
    file("implied/b", b"3"),
    file("denied", b"4", mode=0),
    hardlink("link", "d/a"),
    symlink("l", "d"),
    sparse_01("s", 10_000, [(0, b"y" * 600), (5000, b"x" * 100)]),
    *(file(f"many/{number}", b"%d" % number) for number in range(300)),
)
DIFF_ID = DiffID.of(LAYER)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(tmp_path / "store")
    unpack(store, LAYER)
    return store


def verified(store: Store, *, attributes: bool = True, contents: bool = True) -> LayerVerified:
    task = VerifyTask(store, DIFF_ID, attributes=attributes, contents=contents)
    return verify_layer(task, lambda _: None)


def rewrite(path: Path) -> None:
    before = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_directory(root: Path) -> None:
    (root / "implied").rename(root / "moved")
    (root / "implied").symlink_to("moved")


def join_names(root: Path) -> None:
    (root / "many/1").unlink()
    os.link(root / "implied/b", root / "many/1")


def make_directory(root: Path) -> None:
    (root / "many/1").unlink()
    (root / "many/1").mkdir()


def retarget(root: Path) -> None:
    (root / "l").unlink()
    (root / "l").symlink_to("elsewhere")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "nothing": Path.stat,
    "mode": lambda root: (root / "d/a").chmod(0o600),
    "mode of a large file": lambda root: (root / "d/large").chmod(0o600),
    "time": lambda root: os.utime(root / "many/7", ns=(5, 5)),
    "time of a sparse file": lambda root: os.utime(root / "s", ns=(5, 5)),
    "xattr": lambda root: os.setxattr(root / "many/8", "user.more", b"1"),
    "lost xattr": lambda root: os.removexattr(root / "d/noted", "user.note"),
    "size": lambda root: os.truncate(root / "many/100", 1),
    "larger": lambda root: os.truncate(root / "d/large", 400_001),
    "empty": lambda root: os.truncate(root / "d/large", 0),
    "contents": lambda root: rewrite(root / "d/large"),
    "missing": lambda root: (root / "many/9").unlink(),
    "more": lambda root: (root / "many/more").write_bytes(b""),
    "another name": lambda root: os.link(root / "many/10", root / "many/11a"),
    "lost name": lambda root: (root / "link").unlink(),
    "names joined": join_names,
    "directory behind a link": replace_directory,
    "directory in place of a file": make_directory,
    "mode of a directory": lambda root: (root / "d").chmod(0o700),
    "target": retarget,
}


@pytest.mark.parametrize("checksums", [False, True], ids=["first", "again"])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_one_pass_finds_what_two_passes_find(
    store: Store, damage: Callable[[Path], object], *, checksums: bool
) -> None:
    if checksums:
        assert verified(store).is_sound
    damage(store.layers.paths(DIFF_ID).diff)
    apart = verified(store, contents=False).joined(verified(store, attributes=False))
    assert verified(store) == apart
    assert apart.is_sound == (damage is DAMAGE["nothing"])


def test_one_pass_reads_no_attributes_of_plain_files_by_name(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, real = list[bytes](), os.lstat

    def lstat(path: bytes) -> os.stat_result:
        names.append(os.path.basename(path))
        return real(path)

    monkeypatch.setattr("stacker.tree.scan.os.lstat", lstat)
    assert verified(store).is_sound
    assert not [name for name in names if name.isdigit()]
    assert {b"d", b"noted", b"link", b"l", b"many"} <= set(names)


def test_one_pass_compares_a_layer_whose_entries_repeat_by_unpacking_it(tmp_path: Path) -> None:
    layer = tar(file("a", b"1"), folder("d/"), folder("d/", mode=0o700), file("d/b", b"2"))
    store = Store.open(tmp_path / "repeated")
    unpack(store, layer)
    diff_id = DiffID.of(layer)
    record = store.layers.record(diff_id)
    assert module.is_usual(record)
    task = VerifyTask(store, diff_id)
    assert verify_layer(task, lambda _: None).is_sound
    (store.layers.paths(diff_id).diff / "d").chmod(0o755)
    [found] = verify_layer(task, lambda _: None).differences
    assert (found.path, found.what) == (b"d", "mode")


def test_one_pass_names_changed_files_of_a_layer_whose_skeleton_is_damaged(store: Store) -> None:
    paths = store.layers.paths(DIFF_ID)
    paths.skeleton.write_bytes(paths.skeleton.read_bytes()[:200])
    apart = verified(store, contents=False).joined(verified(store, attributes=False))
    assert not apart.is_sound
    assert verified(store) == apart
