"""The strict JSON parser refuses input that parsers read differently."""

from __future__ import annotations

import pytest

from stacker.errors import IntegrityError
from stacker.image.document import (
    DOCUMENT_LIMIT,
    objects,
    optional,
    parse_json,
    parse_object,
    required,
    string_map,
    strings,
)


def test_object_is_read_unchanged() -> None:
    raw = '{"a": [1, null, true, "\\ud83d\\ude00 é"], "b": {}}'.encode()
    assert parse_object(raw, "doc") == {"a": [1, None, True, "😀 é"], "b": {}}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "malformed JSON"),
        (b"{", "malformed JSON"),
        (b"{} x", "malformed JSON"),
        (b'{"a": 1,}', "malformed JSON"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": Infinity}', "Infinity"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1, "a": 2}', "key 'a' occurs twice"),
        (b'{"x": {"a": 1, "\\u0061": 2}}', "key 'a' occurs twice"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
        (b"\xef\xbb\xbf{}", "malformed JSON"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        ('{"a": 1}'.encode("utf-16-le"), "malformed JSON"),
        (b'{"a": "\\ud800"}', "half a surrogate pair"),
        (b'{"a": "\x00"}', "malformed JSON"),
        (b'{"a":' + b"9" * 10_000 + b"}", "malformed JSON"),
        (b"[" * 200_000, "nested too deep"),
        (b'{"a":' * 200_000, "nested too deep"),
        (b"[" * 200_000 + b"]" * 200_000, "nested too deep"),
    ],
)
def test_input_that_parsers_read_differently_is_refused(raw: bytes, reason: str) -> None:
    with pytest.raises(IntegrityError, match=f"^doc: .*{reason}") as caught:
        parse_json(raw, "doc")
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("raw", [b"[]", b"null", b'"x"', b"1"])
def test_a_document_that_is_no_object_is_refused(raw: bytes) -> None:
    with pytest.raises(IntegrityError, match="want an object"):
        parse_object(raw, "doc")


def test_the_limit_is_four_mebibytes_to_the_byte() -> None:
    frame = len(b'{"a":""}')
    largest = b'{"a":"' + b"x" * (DOCUMENT_LIMIT - frame) + b'"}'
    assert len(parse_object(largest, "doc")) == 1
    with pytest.raises(IntegrityError, match="got 4194305 bytes, want at most 4194304"):
        parse_object(largest + b" ", "doc")


@pytest.mark.parametrize("value", [True, 1.0, "1", [1], {"a": 1}])
def test_boolean_is_not_an_integer(value: object) -> None:
    with pytest.raises(IntegrityError, match=r"doc: size: got .*, want an integer"):
        optional({"size": value}, "size", int, "doc")


def test_null_counts_as_absent() -> None:
    members: dict[str, object] = {"a": None}
    assert optional(members, "a", str, "doc") is None
    assert strings(members, "a", "doc") == ()
    assert string_map(members, "a", "doc") == {}
    assert objects(members, "a", "doc") == []
    with pytest.raises(IntegrityError, match="doc: a: got nothing, want a string"):
        required(members, "a", str, "doc")


@pytest.mark.parametrize("value", [["a", 1], "a", {"a": "b"}, [None]])
def test_a_list_of_strings_holds_strings(value: object) -> None:
    with pytest.raises(IntegrityError, match="doc: names: got "):
        strings({"names": value}, "names", "doc")


@pytest.mark.parametrize("value", [{"a": 1}, {"a": None}, ["a"], "a"])
def test_a_map_of_strings_holds_strings(value: object) -> None:
    with pytest.raises(IntegrityError, match="doc: names: "):
        string_map({"names": value}, "names", "doc")


@pytest.mark.parametrize("value", [[1], {}, ["a"], [None]])
def test_a_list_of_objects_holds_objects(value: object) -> None:
    with pytest.raises(IntegrityError, match="doc: steps"):
        objects({"steps": value}, "steps", "doc")
