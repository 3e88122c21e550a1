"""``layer.json`` survives a round trip."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stacker.errors import IntegrityError, UnsupportedError
from stacker.layer.record import LayerRecord, Replacement
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.tar.entry import HardLink

PATHS = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([b"\xff", b"\xed\xb2\x80", b"\xf0\x9f\x98\x80", b"a\nb\0", "ü".encode()]),
)
SETS = st.frozensets(PATHS, max_size=4)
TUPLES = st.lists(PATHS, max_size=4).map(tuple)
COUNTS = st.integers(0, 1 << 60)


@given(
    st.builds(
        LayerRecord,
        whiteout_format=st.sampled_from(WhiteoutFormat),
        squashed=st.booleans(),
        entries=COUNTS,
        files=COUNTS,
        file_bytes=COUNTS,
        tar_bytes=COUNTS,
        whiteouts=COUNTS,
        whiteout_parents=SETS,
        opaque=SETS,
        implied=SETS,
        assumed=SETS,
        deferred_links=st.lists(st.builds(HardLink, PATHS, PATHS), max_size=3).map(tuple),
        stranded=TUPLES,
        stranded_opaque=TUPLES,
        escaped_xattrs=st.booleans(),
        moved=st.dictionaries(COUNTS, PATHS, max_size=3),
        replacements=st.lists(st.builds(Replacement, COUNTS, PATHS, COUNTS), max_size=3).map(tuple),
        blobs=st.lists(st.text(max_size=8), max_size=3).map(tuple),
        warnings=st.lists(st.text(max_size=8), max_size=3).map(tuple),
    )
)
def test_record_survives_json_with_any_bytes_in_names(record: LayerRecord) -> None:
    raw = record.to_json()
    assert LayerRecord.from_json(raw, "test") == record
    assert raw.isascii()


def test_layer_json_has_version_form_and_format() -> None:
    data = json.loads(LayerRecord(WhiteoutFormat.USER, squashed=True).to_json())
    assert (data["version"], data["form"]) == (1, "tree")
    assert (data["whiteoutFormat"], data["idMap"]) == ("user", "squash")


def test_with_blob_adds_the_digest() -> None:
    record = LayerRecord(WhiteoutFormat.USER).with_blob("sha256:a", 512).with_blob("sha256:b", 512)
    assert record.blobs == ("sha256:a", "sha256:b")
    assert record.tar_bytes == 512


@pytest.mark.parametrize(("key", "value"), [("version", 2), ("version", "1"), ("form", "squashfs")])
def test_another_version_or_form_is_unsupported(key: str, value: object) -> None:
    data = json.loads(LayerRecord(WhiteoutFormat.USER).to_json()) | {key: value}
    with pytest.raises(UnsupportedError, match="unknown layer record"):
        LayerRecord.from_json(json.dumps(data).encode(), "test")


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"1", b"null", b"\xff", b'{"version":1}', b"{}"])
def test_damaged_file_is_an_integrity_error(raw: bytes) -> None:
    with pytest.raises(IntegrityError, match="damaged layer record: test"):
        LayerRecord.from_json(raw, "test")


@pytest.mark.parametrize("key", sorted(json.loads(LayerRecord(WhiteoutFormat.USER).to_json())))
@pytest.mark.parametrize("value", [None, 7, "x", [7], {"a": None}])
def test_field_of_another_type_parses_or_raises_stacker_error(key: str, value: object) -> None:
    data = json.loads(LayerRecord(WhiteoutFormat.USER).to_json()) | {key: value}
    try:
        LayerRecord.from_json(json.dumps(data).encode(), "test")
    except (IntegrityError, UnsupportedError):
        return
    assert key in ("blobs", "warnings", "idMap", "escapedXattrs", "whiteoutHolders", "opaque",
                   "implied", "assumed", "stranded", "strandedOpaque")  # fmt: skip


def test_every_field_is_required() -> None:
    whole = json.loads(LayerRecord(WhiteoutFormat.USER).to_json())
    for key in whole:
        data = {name: value for name, value in whole.items() if name != key}
        with pytest.raises(IntegrityError):
            LayerRecord.from_json(json.dumps(data).encode(), "test")
