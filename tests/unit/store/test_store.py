"""The store: what makes one, and its parts."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from stacker.errors import (
    IntegrityError,
    LockedError,
    NotFoundError,
    StackerError,
    UnsupportedError,
    UsageError,
)
from stacker.image.descriptor import Descriptor
from stacker.image.digest import ChainID, DiffID, Digest, ImageID
from stacker.layer.paths import Stack
from stacker.layer.record import LayerRecord
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import lock
from stacker.store import chains
from stacker.store.images import NAME
from stacker.store.store import Store

DIFF = DiffID.of(b"layer")
CHAIN = ChainID.of(b"chain")
FORM = WhiteoutFormat.TRUSTED


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def unpacked(store: Store, diff_id: DiffID = DIFF) -> Path:
    with store.layers.unpacking(diff_id) as place:
        assert place is not None
        (place.diff / "file").write_text("x")
        place.skeleton.write_bytes(b"")
        store.layers.commit(diff_id, place, LayerRecord(FORM), sync=False)
    return store.layers.paths(diff_id).root


def image(store: Store, number: int, *names: str, source: str = "oci:x") -> ImageID:
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": []},
            "author": str(number),
        }
    ).encode()
    manifest = {
        "schemaVersion": 2,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": str(Digest.of(config)),
            "size": len(config),
        },
        "layers": [],
    }
    raw = json.dumps(manifest).encode()
    store.blobs.write(Digest.of(config), config)
    store.blobs.write(Digest.of(raw), raw)
    kind = "application/vnd.oci.image.manifest.v1+json"
    with store.images.write_lock():
        store.images.add(Descriptor(kind, Digest.of(raw), len(raw)), names, source)
    return ImageID.of(config)


# -- the store itself -----------------------------------------------------------------------


def test_a_store_is_private(store: Store) -> None:
    assert store.root.stat().st_mode & 0o777 == 0o700


def test_a_store_that_became_public_is_private_again(store: Store) -> None:
    store.root.chmod(0o755)
    Store.open(store.root)
    assert store.root.stat().st_mode & 0o777 == 0o700


def test_a_store_is_an_oci_layout(store: Store) -> None:
    assert json.loads((store.root / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}


def test_a_directory_with_other_things_does_not_become_a_store(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(UsageError, match="not a store"):
        Store.open(tmp_path)
    assert os.listdir(tmp_path) == ["letter.txt"]


def test_somebody_elses_layout_does_not_become_a_store(tmp_path: Path) -> None:
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (tmp_path / "blobs").mkdir()
    with pytest.raises(UsageError, match="not a store"):
        Store.open(tmp_path)


def test_a_store_of_a_later_version_is_refused(store: Store) -> None:
    (store.root / "stacker.json").write_text('{"version": 2}')
    with pytest.raises(UnsupportedError, match="got version 2, want version 1"):
        Store.open(store.root)


def test_new_store_records_its_whiteout_format(store: Store) -> None:
    recorded = json.loads((store.root / "stacker.json").read_bytes())["whiteoutFormat"]
    assert recorded == WhiteoutFormat.permitted().value
    other = next(each for each in WhiteoutFormat if each.value != recorded)
    content = {"version": 1, "whiteoutFormat": other.value}
    (store.root / "stacker.json").write_text(json.dumps(content))
    assert Store.open(store.root).whiteout_format is other


def test_store_without_a_recorded_whiteout_format_opens(store: Store) -> None:
    (store.root / "stacker.json").write_text('{"version": 1}')
    assert Store.open(store.root).whiteout_format is WhiteoutFormat.permitted()


def test_unknown_recorded_whiteout_format_is_a_damaged_store(store: Store) -> None:
    (store.root / "stacker.json").write_text('{"version": 1, "whiteoutFormat": "x"}')
    with pytest.raises(StackerError, match="damaged store"):
        _ = store.whiteout_format


def test_a_damaged_mark_is_an_error_in_words(store: Store) -> None:
    (store.root / "stacker.json").write_text("{")
    with pytest.raises(StackerError, match="damaged store"):
        Store.open(store.root)


def test_a_store_below_a_file_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StackerError, match="cannot open the store"):
        Store.open(tmp_path / "file" / "store")


# -- blobs ----------------------------------------------------------------------------------


def test_a_blob_is_read_back_verified(store: Store) -> None:
    store.blobs.write(Digest.of(b"doc"), b"doc")
    assert store.blobs.read(Digest.of(b"doc")) == b"doc"


def test_a_blob_that_the_disk_changed_is_noticed(store: Store) -> None:
    store.blobs.write(Digest.of(b"doc"), b"doc")
    store.blobs.path(Digest.of(b"doc")).write_bytes(b"cod")
    with pytest.raises(IntegrityError, match="damaged blob"):
        store.blobs.read(Digest.of(b"doc"))


def test_a_blob_that_is_missing_is_not_found(store: Store) -> None:
    with pytest.raises(NotFoundError):
        store.blobs.read(Digest.of(b"doc"))


# -- layers ---------------------------------------------------------------------------------


def test_a_layer_appears_when_it_is_committed_and_not_before(store: Store) -> None:
    with store.layers.unpacking(DIFF) as place:
        assert place is not None
        assert not store.layers.has(DIFF)
        store.layers.commit(DIFF, place, LayerRecord(FORM, entries=3), sync=True)
        assert store.layers.has(DIFF)
    assert store.layers.record(DIFF).entries == 3
    assert list(store.layers.all()) == [DIFF]
    assert os.listdir(store.staging.root) == []


def test_a_layer_that_is_not_committed_leaves_nothing(store: Store) -> None:
    def broken_off() -> None:
        with store.layers.unpacking(DIFF) as place:
            assert place is not None
            (place.diff / "d").mkdir()
            (place.diff / "d" / "f").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken_off()
    assert not store.layers.has(DIFF)
    assert os.listdir(store.staging.root) == []


def test_a_layer_that_is_there_is_not_unpacked_again(store: Store) -> None:
    unpacked(store)
    with store.layers.unpacking(DIFF) as place:
        assert place is None


def test_who_comes_while_a_layer_is_unpacked_waits_and_finds_it(store: Store) -> None:
    found: list[object] = []

    def other() -> None:
        with store.layers.unpacking(DIFF) as place:
            found.append(place)

    with store.layers.unpacking(DIFF) as place:
        assert place is not None
        waiting = threading.Thread(target=other)
        waiting.start()
        store.layers.commit(DIFF, place, LayerRecord(FORM), sync=False)
    waiting.join()
    assert found == [None]


def test_a_layer_that_is_read_is_not_removed(store: Store) -> None:
    unpacked(store)
    with (
        store.layers.reading([DIFF]),
        pytest.raises(LockedError, match="layer in use"),
        store.layers.removing([DIFF]),
    ):
        pass


def test_readers_share_a_layer(store: Store) -> None:
    unpacked(store)
    with store.layers.reading([DIFF, DIFF]), store.layers.reading([DIFF]):
        pass


def test_a_layer_that_is_not_here_cannot_be_read(store: Store) -> None:
    with pytest.raises(NotFoundError), store.layers.reading([DIFF]):
        pass
    with pytest.raises(NotFoundError):
        store.layers.record(DIFF)


def test_removal_takes_the_layer_and_its_lock(store: Store) -> None:
    unpacked(store)
    with store.layers.reading([DIFF]):
        pass
    with store.staging.trash() as discard, store.layers.removing([DIFF]) as paths:
        discard(paths)
    assert not store.layers.has(DIFF)
    assert os.listdir(store.root / "layers" / "sha256") == []
    assert os.listdir(store.staging.root) == []


# -- staging --------------------------------------------------------------------------------


def test_what_a_crash_left_is_swept_and_work_in_progress_is_not(store: Store) -> None:
    (store.staging.root / "left").mkdir()
    (store.staging.root / "left" / "f").write_text("x")
    (store.staging.root / "file").write_text("x")
    (store.staging.root / "gone.lock").write_text("")
    with store.staging.locked("busy") as path:
        path.mkdir()
        assert store.staging.sweep() == 2
        assert sorted(os.listdir(store.staging.root)) == ["busy", "busy.lock"]
    assert os.listdir(store.staging.root) == []


def test_what_lies_where_work_begins_is_removed_first(store: Store) -> None:
    (store.staging.root / "name").mkdir()
    (store.staging.root / "name" / "old").write_text("x")
    with store.staging.locked("name") as path:
        assert not path.exists()


# -- chains ---------------------------------------------------------------------------------


def test_a_chain_is_read_back_with_its_repairs_in_their_final_place(store: Store) -> None:
    layer = unpacked(store) / "diff"
    with store.chains.building(CHAIN) as room:
        assert room is not None
        (room / "fixup").mkdir()
        record = Stack((room / "fixup", layer), FORM, plain=False)
        store.chains.commit(CHAIN, room, record)
    chain = store.chains.read(CHAIN)
    assert chain.directories == (store.chains.path(CHAIN) / "fixup", layer)
    assert all(directory.is_dir() for directory in chain.directories)
    with store.chains.building(CHAIN) as room:
        assert room is None


def test_a_chain_that_is_missing_or_damaged_is_an_error_in_words(store: Store) -> None:
    with pytest.raises(NotFoundError, match="no such chain"):
        store.chains.read(CHAIN)
    with store.chains.building(CHAIN) as room:
        assert room is not None
        store.chains.commit(CHAIN, room, Stack((), FORM, plain=True))
    record = store.chains.path(CHAIN) / "chain.json"
    record.write_text('{"version": 1}')
    with pytest.raises(IntegrityError, match="damaged chain record") as caught:
        store.chains.read(CHAIN)
    assert "stacker rm" in (caught.value.hint or "")
    record.write_text('{"version": 9}')
    with pytest.raises(UnsupportedError, match="version 9"):
        store.chains.read(CHAIN)


def test_a_chain_is_on_disk_before_it_has_its_name(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []

    def syncing(room: Path) -> None:
        assert not store.chains.has(CHAIN)
        seen.append((room / "chain.json").read_bytes())

    monkeypatch.setattr(chains, "sync_filesystem", syncing)
    with store.chains.building(CHAIN) as room:
        assert room is not None
        store.chains.commit(CHAIN, room, Stack((), FORM, plain=True), sync=True)
    assert seen == [(store.chains.path(CHAIN) / "chain.json").read_bytes()]


# -- images ---------------------------------------------------------------------------------


def test_an_image_is_found_by_id_prefix_name_and_source(store: Store) -> None:
    one = image(store, 1, "app:1", source="oci:a:app:1")
    image(store, 2, "app:2", source="oci:b:app:2")
    for text in (str(one), one.hex, one.hex[:9], f"sha256:{one.hex[:9]}", "app:1", "oci:a:app:1"):
        assert store.images.find(text) == one


def test_an_ambiguous_prefix_is_a_usage_error_that_lists_what_it_could_mean(store: Store) -> None:
    by_digit: dict[str, list[ImageID]] = {}
    for number in range(17):
        found = image(store, number, f"n{number}")
        by_digit.setdefault(found.hex[0], []).append(found)
    digit, several = next((d, ids) for d, ids in by_digit.items() if len(ids) > 1)
    with pytest.raises(UsageError, match="ambiguous") as caught:
        store.images.find(digit)
    assert all(found.short in str(caught.value) for found in several)


def test_an_unknown_image_is_not_found(store: Store) -> None:
    image(store, 1, "app")
    for text in ("nothing", "", "sha256:", "f" * 64):
        with pytest.raises(NotFoundError, match="no such image"):
            store.images.find(text)


def test_the_digest_of_a_manifest_is_not_an_image_id_and_the_hint_says_so(store: Store) -> None:
    one = image(store, 1, "app")
    manifest = store.images.all()[0].manifests[0].digest
    with pytest.raises(NotFoundError) as caught:
        store.images.find(str(manifest))
    assert str(one) in (caught.value.hint or "")


def test_a_name_moves_to_the_image_pulled_last(store: Store) -> None:
    one, two = image(store, 1, "app"), image(store, 2, "app")
    assert store.images.find("app") == two
    assert {i.id: i.names for i in store.images.all()} == {one: (), two: ("app",)}


def test_pulling_again_lists_an_image_once(store: Store) -> None:
    one = image(store, 1, "app")
    image(store, 1, "app")
    image(store, 1, "other", source="oci:y")
    (stored,) = store.images.all()
    assert (stored.id, stored.names, stored.sources) == (one, ("app", "other"), ("oci:x", "oci:y"))


def test_an_image_without_a_name_is_listed(store: Store) -> None:
    one = image(store, 1)
    (stored,) = store.images.all()
    assert (stored.id, stored.names) == (one, ())


def test_a_removed_image_is_not_listed(store: Store) -> None:
    one, two = image(store, 1, "a"), image(store, 2, "b")
    with store.images.write_lock():
        store.images.remove(one)
    assert [i.id for i in store.images.all()] == [two]


def test_the_list_is_changed_by_one_at_a_time(store: Store) -> None:
    with store.images.write_lock():
        assert lock.try_exclusive(store.root / "index.json.lock") is None


def test_the_list_is_an_index_other_tools_can_read(store: Store) -> None:
    image(store, 1, "app")
    index = json.loads((store.root / "index.json").read_text())
    assert index["schemaVersion"] == 2
    (entry,) = index["manifests"]
    assert entry["annotations"][NAME] == "app"
    blob = store.root / "blobs" / entry["digest"].replace(":", "/")
    assert blob.stat().st_size == entry["size"]


def test_a_record_survives_its_way_to_disk_and_back(store: Store) -> None:
    record = LayerRecord(FORM, opaque=frozenset({b"", b"\xff\n"}), moved={3: b"a/\x80"})
    record = replace(record, warnings=("w",), tar_bytes=1 << 40)
    assert LayerRecord.from_json(record.to_json(), "here") == record
    del store
