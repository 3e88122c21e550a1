"""Mount records: written, parsed, and read from earlier releases."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stacker.errors import IntegrityError, UnsupportedError
from stacker.mount.record import MountRecord, parse
from tests.support.mounts import mount_record

ORIGIN = Path("/store/mounts/0a/mount.json")
RECORD = mount_record(
    Path("/target/\udcff"),
    read_only=False,
    upper=Path("/changes"),
    layers=(Path("/a"), Path("/b")),
    boot_id="boot",
    mount_namespace=1,
    target_inode=2,
    target_mode=(0o755, 3, 4),
    diff_ids=("sha256:1a", "sha256:2b"),
    chain_id="sha256:3c",
)


@pytest.mark.parametrize(
    "record",
    [
        RECORD,
        replace(RECORD, upper=None, bound=(5, 6)),
        replace(RECORD, fuse_adapter="pyfuse3"),
        replace(RECORD, driver="copy", complete=False),
        replace(RECORD, driver="fuse", server=(7, 8), served=Path("/served")),
        replace(RECORD, runtime=("/usr/sbin/runc", "--debug")),
    ],
)
def test_record_survives_writing_and_parsing(record: MountRecord) -> None:
    assert parse(record.to_bytes(), ORIGIN) == record


def test_record_without_adapter_and_ids_takes_the_ids_from_its_paths() -> None:
    layers = [
        "/store/chains/sha256/3c/fixup",
        "/store/layers/sha256/1a/diff",
        "/store/layers/sha256/2b/diff",
    ]
    document = RECORD.to_json() | {"layers": layers}
    for name in ("fuse_adapter", "diff_ids", "chain_id", "complete", "runtime"):
        del document[name]
    expected = replace(RECORD, layers=tuple(map(Path, layers)))
    assert parse(json.dumps(document).encode(), ORIGIN) == expected


def test_server_without_a_start_time_is_ignored() -> None:
    document = RECORD.to_json() | {"server": 7}
    assert parse(json.dumps(document).encode(), ORIGIN) == RECORD


def test_record_of_directories_outside_a_store_has_no_ids() -> None:
    document = RECORD.to_json()
    del document["diff_ids"]
    del document["chain_id"]
    parsed = parse(json.dumps(document).encode(), ORIGIN)
    assert (parsed.diff_ids, parsed.chain_id) == ((), None)


def test_document_is_ascii_and_has_a_version() -> None:
    document = json.loads(RECORD.to_bytes().decode("ascii"))
    assert document["version"] == 1
    assert document["target_mode"] == [0o755, 3, 4]


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"{}", b'{"version": 1}', b"\xff"],
    ids=["empty", "cut", "list", "null", "nothing", "no fields", "no text"],
)
def test_malformed_record_is_an_error_with_its_path(data: bytes) -> None:
    with pytest.raises(IntegrityError, match=str(ORIGIN)):
        parse(data, ORIGIN)


def test_field_of_another_shape_is_malformed() -> None:
    document = RECORD.to_json() | {"target_mode": [1]}
    with pytest.raises(IntegrityError, match="malformed"):
        parse(json.dumps(document).encode(), ORIGIN)


def test_record_of_a_later_version_is_unsupported() -> None:
    with pytest.raises(UnsupportedError, match="got version 2, want version 1"):
        parse(b'{"version": 2}', ORIGIN)
