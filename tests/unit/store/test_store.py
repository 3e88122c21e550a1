"""Open and create stores, and read and write blobs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from stacker.errors import (
    IntegrityError,
    NotFoundError,
    StackerError,
    UnsupportedError,
    UsageError,
)
from stacker.image.digest import ChainID, DiffID, Digest
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.store.store import Store

DIFF = DiffID.of(b"layer")
CHAIN = ChainID.of(b"chain")
FORM = WhiteoutFormat.TRUSTED


def test_store_has_mode_0700(store: Store) -> None:
    assert store.root.stat().st_mode & 0o777 == 0o700


def test_opening_a_store_restores_mode_0700(store: Store) -> None:
    store.root.chmod(0o755)
    Store.open(store.root)
    assert store.root.stat().st_mode & 0o777 == 0o700


def test_store_is_an_oci_layout(store: Store) -> None:
    assert json.loads((store.root / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}


def test_directory_with_other_files_is_not_a_store(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(UsageError, match="not a store"):
        Store.open(tmp_path)
    assert os.listdir(tmp_path) == ["letter.txt"]


def test_foreign_oci_layout_is_not_a_store(tmp_path: Path) -> None:
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (tmp_path / "blobs").mkdir()
    with pytest.raises(UsageError, match="not a store"):
        Store.open(tmp_path)


def test_store_of_a_newer_version_is_rejected(store: Store) -> None:
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


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_mark_of_a_whole_store_is_written_again(store: Store, content: str) -> None:
    (store.root / "stacker.json").write_text(content)
    Store.open(store.root)
    assert json.loads((store.root / "stacker.json").read_text())["version"] == 1


def test_a_damaged_mark_without_a_store_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "stacker.json").write_text("{")
    with pytest.raises(StackerError, match="damaged store"):
        Store.open(tmp_path)


def test_a_temporary_file_of_a_killed_process_does_not_keep_a_store_from_being_made(
    tmp_path: Path,
) -> None:
    for name in (".stacker.json.123", ".stacker.json.124.new"):
        (tmp_path / name).write_text("")
    Store.open(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory away")
def test_a_store_of_another_user_is_refused(store: Store) -> None:
    os.chown(store.root, 12345, 12345)
    with pytest.raises(UsageError, match="store of another user"):
        Store.open(store.root)


def test_store_below_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StackerError, match="cannot open the store"):
        Store.open(tmp_path / "file" / "store")


def test_blob_is_read_and_verified(store: Store) -> None:
    store.blobs.write(Digest.of(b"doc"), b"doc")
    assert store.blobs.read(Digest.of(b"doc")) == b"doc"


def test_damaged_blob_is_an_integrity_error(store: Store) -> None:
    store.blobs.write(Digest.of(b"doc"), b"doc")
    store.blobs.path(Digest.of(b"doc")).write_bytes(b"cod")
    with pytest.raises(IntegrityError, match="damaged blob"):
        store.blobs.read(Digest.of(b"doc"))


def test_missing_blob_is_not_found(store: Store) -> None:
    with pytest.raises(NotFoundError):
        store.blobs.read(Digest.of(b"doc"))
