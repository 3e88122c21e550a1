"""JSON bytes to values and back, read so strictly that no other reader can see another document.

In come bytes, out come plain dicts, lists and strings; the field readers below take them apart
and name the place where a type is wrong.  Which fields a document has is not known here.

Registries, signers and runtimes all parse the same bytes with different parsers.  What those
are known to disagree about (a key given twice, NaN, other encodings, half a surrogate pair) is
refused, never interpreted.
"""

from __future__ import annotations

import json
from typing import TypeVar

from stacker.errors import IntegrityError

DOCUMENT_LIMIT = 4 * 1024 * 1024
"""Bytes a manifest, index or config may have; registries hold manifests to the same limit."""

_T = TypeVar("_T")
_SHOWN = 100
_NAMES = {dict: "an object", list: "a list", str: "a string", int: "an integer", bool: "a boolean"}


def parse_json(raw: bytes, what: str) -> object:
    """Return the JSON value that `raw` holds.

    :param what: the document's name for messages.
    :raises IntegrityError: over `DOCUMENT_LIMIT` bytes, not UTF-8, not JSON (RFC 8259), nested
        too deep, or with a key that occurs twice in one object.
    """
    if len(raw) > DOCUMENT_LIMIT:
        raise IntegrityError(f"{what}: got {len(raw)} bytes, want at most {DOCUMENT_LIMIT}")
    try:
        text = raw.decode("utf-8")
        value: object = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        if "\\u" in text:
            # Half a surrogate pair can only come from an escape, and cannot be written again.
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise IntegrityError(f"{what}: malformed JSON: nested too deep") from None
    except ValueError as error:
        # A decoding error prints its offset, never its input.
        raise IntegrityError(f"{what}: malformed JSON: {_reason(error)}") from None
    return value


def parse_object(raw: bytes, what: str) -> dict[str, object]:
    """Return the JSON object that `raw` holds; as `parse_json`, and refuses other values."""
    return as_object(parse_json(raw, what), what)


def to_bytes(members: dict[str, object]) -> bytes:
    """Return an object as a document: UTF-8, no blanks, fields in the order they stand in."""
    return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()


def as_object(value: object, where: str) -> dict[str, object]:
    """Return `value` if it is an object.

    :raises IntegrityError: it is something else.
    """
    if not isinstance(value, dict):
        raise IntegrityError(f"{where}: got {quoted(value)}, want an object")
    return value


def optional(members: dict[str, object], name: str, kind: type[_T], where: str) -> _T | None:
    """Return the field `name` of type `kind`, or None when absent or null.

    :raises IntegrityError: it has another type (a boolean is not an integer).
    """
    value = members.get(name)
    if value is None:
        return None
    if type(value) is not kind:
        raise IntegrityError(f"{where}: {name}: got {quoted(value)}, want {_NAMES[kind]}")
    return value


def required(members: dict[str, object], name: str, kind: type[_T], where: str) -> _T:
    """Return the field `name` of type `kind`; as `optional`, and refuses absence."""
    value = optional(members, name, kind, where)
    if value is None:
        raise IntegrityError(f"{where}: {name}: got nothing, want {_NAMES[kind]}")
    return value


def strings(members: dict[str, object], name: str, where: str) -> tuple[str, ...]:
    """Return the list of strings `name`, empty when absent or null."""
    found = optional(members, name, list, where) or []
    for value in found:
        if not isinstance(value, str):
            raise IntegrityError(f"{where}: {name}: got {quoted(value)}, want a string")
    return tuple(found)


def string_map(members: dict[str, object], name: str, where: str) -> dict[str, str]:
    """Return the object of strings `name`, empty when absent or null."""
    found = optional(members, name, dict, where) or {}
    for key, value in found.items():
        if not isinstance(value, str):
            raise IntegrityError(
                f"{where}: {name}: {quoted(key)}: got {quoted(value)}, want a string"
            )
    return found


def objects(members: dict[str, object], name: str, where: str) -> list[dict[str, object]]:
    """Return the list of objects `name`, empty when absent or null."""
    found = optional(members, name, list, where) or []
    return [as_object(value, f"{where}: {name}[{i}]") for i, value in enumerate(found)]


def quoted(value: object) -> str:
    """Return `value` quoted, without control characters, cut to about a hundred characters.

    The value comes from a document that anybody may have written: escape sequences in it must
    not reach a terminal, and four megabytes of it must not reach a log.
    """
    if isinstance(value, str):
        value = value if len(value) <= _SHOWN else value[:_SHOWN] + "…"
    elif isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    elif isinstance(value, int) and value.bit_length() > _SHOWN:
        return "a huge number"  # its decimal form may be more than Python agrees to print
    # repr() escapes what is unprintable, lone surrogates among it.
    return repr(value)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {quoted(key)} occurs twice")
            seen.add(key)
    return members


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _reason(error: ValueError) -> str:
    if isinstance(error, UnicodeEncodeError):
        return "half a surrogate pair"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start}"
    return str(error)
