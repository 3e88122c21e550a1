"""Sealing a layer, with a fake kernel that keeps fs-verity digests by inode."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from stacker.errors import StackerError, UnsupportedError
from stacker.image.digest import DiffID
from stacker.jobs.seal_layer import SealTask, seal_layer
from stacker.jobs.verify_layer import LayerVerified, VerifyTask, verify_layer
from stacker.layer.paths import LayerPaths
from stacker.linux import verity
from stacker.store.store import Store
from tests.support.store import unpack
from tests.support.tars import dir as folder
from tests.support.tars import file, hardlink, symlink, tar

LAYER = tar(
    folder("d/"),
    file("d/a", b"1"),
    file("d/new\nline", b"2"),
    file("empty"),
    hardlink("link", "d/a"),
    symlink("l", "d"),
)
DIFF_ID = DiffID.of(LAYER)
EMPTY = tar()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(tmp_path / "store")
    unpack(store, LAYER)
    return store


@pytest.fixture
def sealed(monkeypatch: pytest.MonkeyPatch) -> dict[int, bytes]:
    """Replace the two ioctls; return the digest of each sealed inode."""
    digests: dict[int, bytes] = {}

    def enable(fd: int, path: str) -> None:
        del path
        digests.setdefault(os.fstat(fd).st_ino, hashlib.sha256(os.read(fd, 100)).digest())

    def measure(fd: int, path: str) -> bytes | None:
        del path
        return digests.get(os.fstat(fd).st_ino)

    monkeypatch.setattr(verity, "enable", enable)
    monkeypatch.setattr(verity, "measure", measure)
    return digests


def seal(store: Store, diff_id: DiffID = DIFF_ID) -> int:
    return seal_layer(SealTask(store, diff_id), lambda _: None)


def verify(store: Store, diff_id: DiffID = DIFF_ID) -> LayerVerified:
    return verify_layer(VerifyTask(store, diff_id, contents=False), lambda _: None)


def paths(store: Store) -> LayerPaths:
    return store.layers.paths(DIFF_ID)


def test_every_regular_file_is_sealed(store: Store, sealed: dict[int, bytes]) -> None:
    assert seal(store) == 4
    names = ("d/a", "d/new\nline", "empty")
    assert set(sealed) == {(paths(store).diff / name).stat().st_ino for name in names}
    assert verify(store).is_sound


def test_a_layer_without_files_can_be_sealed(store: Store, sealed: dict[int, bytes]) -> None:
    unpack(store, EMPTY)
    assert seal(store, DiffID.of(EMPTY)) == 0
    assert sealed == {}
    assert verify(store, DiffID.of(EMPTY)).is_sound


def test_a_file_without_its_seal_or_with_another_is_named(
    store: Store, sealed: dict[int, bytes]
) -> None:
    seal(store)
    del sealed[(paths(store).diff / "empty").stat().st_ino]
    sealed[(paths(store).diff / "d/new\nline").stat().st_ino] = bytes(32)
    found = {each.path: (each.what, each.got, each.want) for each in verify(store).differences}
    assert found == {
        b"empty": ("fs-verity", "none", hashlib.sha256(b"").hexdigest()),
        b"d/new\nline": ("fs-verity", bytes(32).hex(), hashlib.sha256(b"2").hexdigest()),
    }


def test_sealing_twice_changes_nothing(store: Store, sealed: dict[int, bytes]) -> None:
    seal(store)
    before = paths(store).seals.read_bytes(), dict(sealed)
    seal(store)
    assert (paths(store).seals.read_bytes(), sealed) == before


def test_a_kernel_without_fs_verity_leaves_no_seals(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, path: str) -> None:
        raise UnsupportedError(f"cannot seal: {path}")

    monkeypatch.setattr(verity, "enable", refuse)
    with pytest.raises(UnsupportedError):
        seal(store)
    assert not paths(store).seals.exists()
    assert verify(store).is_sound


def test_another_error_names_the_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, path: str) -> None:
        raise OSError(26, "Text file busy", path)

    monkeypatch.setattr(verity, "enable", refuse)
    with pytest.raises(StackerError, match=r"cannot seal: .*/diff/.*: Text file busy"):
        seal(store)
