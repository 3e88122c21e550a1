"""A record comes back from disk as it went there, or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stacker.errors import IntegrityError, UnsupportedError
from stacker.mount.record import MountRecord, parse

ORIGIN = Path("/store/mounts/0a/mount.json")
RECORD = MountRecord(
    id="0a",
    target=Path("/target/\udcff"),
    image="sha256:0123",
    driver="overlay",
    read_only=False,
    upper=Path("/changes"),
    layers=(Path("/a"), Path("/b")),
    bound=None,
    boot_id="boot",
    mount_namespace=1,
    target_inode=2,
    target_mode=(0o755, 3, 4),
    created="2024-01-01T00:00:00Z",
)


@pytest.mark.parametrize(
    "record",
    [RECORD, replace(RECORD, upper=None, bound=(5, 6)), replace(RECORD, fuse_adapter="pyfuse3")],
)
def test_a_record_comes_back_as_it_was(record: MountRecord) -> None:
    assert parse(record.to_bytes(), ORIGIN) == record


def test_a_record_from_before_there_were_adapters_is_read() -> None:
    document = RECORD.to_json()
    del document["fuse_adapter"]
    assert parse(json.dumps(document).encode(), ORIGIN) == RECORD


def test_the_document_is_ascii_and_has_a_version() -> None:
    document = json.loads(RECORD.to_bytes().decode("ascii"))
    assert document["version"] == 1
    assert document["target_mode"] == [0o755, 3, 4]


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"{}", b'{"version": 1}', b"\xff"],
    ids=["empty", "cut", "list", "null", "nothing", "no fields", "no text"],
)
def test_what_is_no_record_is_named(data: bytes) -> None:
    with pytest.raises(IntegrityError, match=str(ORIGIN)):
        parse(data, ORIGIN)


def test_a_field_of_another_shape_is_malformed() -> None:
    document = RECORD.to_json() | {"target_mode": [1]}
    with pytest.raises(IntegrityError, match="malformed"):
        parse(json.dumps(document).encode(), ORIGIN)


def test_a_later_version_is_not_taken_for_rubbish() -> None:
    with pytest.raises(UnsupportedError, match="got 2, want 1"):
        parse(b'{"version": 2}', ORIGIN)
