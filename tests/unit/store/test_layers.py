"""Layers, chains and staging directories of a store."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from stacker.errors import (
    IntegrityError,
    LockedError,
    NotFoundError,
    UnsupportedError,
)
from stacker.image.digest import ChainID, DiffID
from stacker.layer.paths import Stack
from stacker.layer.record import LayerRecord
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.store import disk_mark
from stacker.store.store import Store

DIFF = DiffID.of(b"layer")
CHAIN = ChainID.of(b"chain")
FORM = WhiteoutFormat.TRUSTED


def unpacked(store: Store, diff_id: DiffID = DIFF) -> Path:
    with store.layers.unpacking(diff_id) as paths:
        assert paths is not None
        paths.diff.mkdir()
        (paths.diff / "file").write_text("x")
        paths.skeleton.write_bytes(b"")
        store.layers.commit(diff_id, paths, LayerRecord(FORM), sync=False)
    return store.layers.paths(diff_id).root


def test_layer_exists_after_its_commit(store: Store) -> None:
    with store.layers.unpacking(DIFF) as paths:
        assert paths is not None
        assert not store.layers.has(DIFF)
        store.layers.commit(DIFF, paths, LayerRecord(FORM, entries=3), sync=True)
        assert store.layers.has(DIFF)
    assert store.layers.record(DIFF).entries == 3
    assert list(store.layers.all()) == [DIFF]
    assert os.listdir(store.staging.root) == []


def test_layer_without_a_commit_leaves_no_files(store: Store) -> None:
    def broken_off() -> None:
        with store.layers.unpacking(DIFF) as paths:
            assert paths is not None
            (paths.diff / "d").mkdir(parents=True)
            (paths.diff / "d" / "f").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken_off()
    assert not store.layers.has(DIFF)
    assert os.listdir(store.staging.root) == []


def test_existing_layer_is_not_unpacked_again(store: Store) -> None:
    unpacked(store)
    with store.layers.unpacking(DIFF) as paths:
        assert paths is None


def test_second_puller_waits_and_finds_the_layer(store: Store) -> None:
    found: list[object] = []

    def other() -> None:
        with store.layers.unpacking(DIFF) as paths:
            found.append(paths)

    with store.layers.unpacking(DIFF) as paths:
        assert paths is not None
        waiting = threading.Thread(target=other)
        waiting.start()
        store.layers.commit(DIFF, paths, LayerRecord(FORM), sync=False)
    waiting.join()
    assert found == [None]


def test_layer_with_a_reader_is_not_removed(store: Store) -> None:
    unpacked(store)
    with (
        store.layers.reading([DIFF]),
        pytest.raises(LockedError, match="layer in use"),
        store.layers.removing([DIFF]),
    ):
        pass


def test_readers_share_the_lock_of_a_layer(store: Store) -> None:
    unpacked(store)
    with store.layers.reading([DIFF, DIFF]), store.layers.reading([DIFF]):
        pass


def test_missing_layer_is_not_found(store: Store) -> None:
    with pytest.raises(NotFoundError), store.layers.reading([DIFF]):
        pass
    with pytest.raises(NotFoundError):
        store.layers.record(DIFF)


def test_removal_returns_the_layer_and_keeps_the_lock_file(store: Store) -> None:
    unpacked(store)
    with store.layers.reading([DIFF]):
        pass
    with store.staging.trash() as discard, store.layers.removing([DIFF]) as paths:
        discard(paths)
    assert not store.layers.has(DIFF)
    assert os.listdir(store.root / "layers" / "sha256") == [f"{DIFF.hex[0]}.lock"]
    assert os.listdir(store.staging.root) == []


def test_sweep_keeps_locked_names(store: Store) -> None:
    (store.staging.root / "left").mkdir()
    (store.staging.root / "left" / "f").write_text("x")
    (store.staging.root / "file").write_text("x")
    (store.staging.root / "gone.lock").write_text("")
    with store.staging.locked("busy") as path:
        path.mkdir()
        assert store.staging.sweep() == 2
        assert sorted(os.listdir(store.staging.root)) == ["busy", "busy.lock"]
    assert os.listdir(store.staging.root) == []


def test_locked_name_starts_without_leftovers(store: Store) -> None:
    (store.staging.root / "name").mkdir()
    (store.staging.root / "name" / "old").write_text("x")
    with store.staging.locked("name") as path:
        assert not path.exists()


def test_committed_chain_refers_to_its_final_directory(store: Store) -> None:
    layer = unpacked(store) / "diff"
    with store.chains.building(CHAIN) as directory:
        (directory / "fixup").mkdir()
        record = Stack((directory / "fixup", layer), FORM, plain=False)
        store.chains.commit(CHAIN, directory, record)
    chain = store.chains.read(CHAIN)
    assert chain.directories == (store.chains.path(CHAIN) / "fixup", layer)
    assert all(directory.is_dir() for directory in chain.directories)


def test_missing_or_damaged_chain_is_an_error(store: Store) -> None:
    with pytest.raises(NotFoundError, match="no such chain"):
        store.chains.read(CHAIN)
    with store.chains.building(CHAIN) as directory:
        store.chains.commit(CHAIN, directory, Stack((), FORM, plain=True))
    record = store.chains.path(CHAIN) / "chain.json"
    record.write_text('{"version": 1}')
    with pytest.raises(IntegrityError, match="damaged chain record") as caught:
        store.chains.read(CHAIN)
    assert "stacker repair" in (caught.value.hint or "")
    record.write_text('{"version": 9}')
    with pytest.raises(UnsupportedError, match="version 9"):
        store.chains.read(CHAIN)


def test_chain_is_flushed_before_its_rename(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    def syncing(directory: Path) -> None:
        assert not store.chains.path(CHAIN).exists()
        seen.append((directory / "chain.json").read_bytes())

    monkeypatch.setattr(disk_mark, "sync_filesystem", syncing)
    with store.chains.building(CHAIN) as directory:
        store.chains.commit(CHAIN, directory, Stack((), FORM, plain=True), sync=True)
    assert seen == [(store.chains.path(CHAIN) / "chain.json").read_bytes()]


def test_layer_record_round_trips() -> None:
    record = LayerRecord(FORM, opaque=frozenset({b"", b"\xff\n"}), moved={3: b"a/\x80"})
    record = replace(record, warnings=("w",), tar_bytes=1 << 40)
    assert LayerRecord.from_json(record.to_json(), "here") == record
