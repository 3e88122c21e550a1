"""Read and write JSON documents, and refuse those that two parsers could read differently.

Bytes come in; plain dicts, lists and strings go out.  If a field has the wrong type, the error
names its position in the document.  This module must not know which fields a document has.

Registries, signers and runtimes parse the same bytes with different parsers.  Input on which they
disagree is refused: a key that occurs twice, NaN, other encodings, half a surrogate pair.
"""

from __future__ import annotations

import json
from typing import TypeVar

from stacker.errors import IntegrityError

DOCUMENT_LIMIT = 4 * 1024 * 1024
"""Maximum bytes of a manifest, index or config; registries have the same limit."""

_T = TypeVar("_T")
_SHOWN = 100
_NAMES = {dict: "an object", list: "a list", str: "a string", int: "an integer", bool: "a boolean"}


def parse_json(raw: bytes, what: str) -> object:
    """Return the JSON value in `raw`.

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
            # Half a surrogate pair can only come from an escape, and cannot be encoded again.
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise IntegrityError(f"{what}: malformed JSON: nested too deep") from None
    except ValueError as error:
        # The message has the offset of the error, never the input.
        raise IntegrityError(f"{what}: malformed JSON: {_reason(error)}") from None
    return value


def parse_object(raw: bytes, what: str) -> dict[str, object]:
    """Return the JSON object in `raw`; see `parse_json`.  Other values are refused."""
    return as_object(parse_json(raw, what), what)


def to_bytes(value: dict[str, object] | list[dict[str, object]]) -> bytes:
    """Return a value as a document: UTF-8, without blanks, fields in their order."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def as_object(value: object, where: str) -> dict[str, object]:
    """Return `value`, an object.

    :raises IntegrityError: `value` is not an object.
    """
    if not isinstance(value, dict):
        raise IntegrityError(f"{where}: got {quoted(value)}, want an object")
    return value


def optional(members: dict[str, object], name: str, kind: type[_T], where: str) -> _T | None:
    """Return the field `name` of type `kind`, or None if it is absent or null.

    :raises IntegrityError: the field has another type (a boolean is not an integer).
    """
    value = members.get(name)
    if value is None:
        return None
    if type(value) is not kind:
        raise IntegrityError(f"{where}: {name}: got {quoted(value)}, want {_NAMES[kind]}")
    return value


def required(members: dict[str, object], name: str, kind: type[_T], where: str) -> _T:
    """Return the field `name` of type `kind`; see `optional`.  A missing field is refused."""
    value = optional(members, name, kind, where)
    if value is None:
        raise IntegrityError(f"{where}: {name}: got nothing, want {_NAMES[kind]}")
    return value


def strings(members: dict[str, object], name: str, where: str) -> tuple[str, ...]:
    """Return the list of strings `name`, empty if it is absent or null."""
    found = optional(members, name, list, where) or []
    for value in found:
        if not isinstance(value, str):
            raise IntegrityError(f"{where}: {name}: got {quoted(value)}, want a string")
    return tuple(found)


def string_map(members: dict[str, object], name: str, where: str) -> dict[str, str]:
    """Return the object of strings `name`, empty if it is absent or null."""
    found = optional(members, name, dict, where) or {}
    for key, value in found.items():
        if not isinstance(value, str):
            raise IntegrityError(
                f"{where}: {name}: {quoted(key)}: got {quoted(value)}, want a string"
            )
    return found


def objects(members: dict[str, object], name: str, where: str) -> list[dict[str, object]]:
    """Return the list of objects `name`, empty if it is absent or null."""
    found = optional(members, name, list, where) or []
    return [as_object(value, f"{where}: {name}[{i}]") for i, value in enumerate(found)]


def quoted(value: object) -> str:
    """Return `value` quoted for a message: printable, and at most about a hundred characters.

    The value may come from a hostile document: its escape sequences must not reach a terminal,
    nor megabytes of it a log.
    """
    if isinstance(value, str):
        value = value if len(value) <= _SHOWN else value[:_SHOWN] + "…"
    elif isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    elif isinstance(value, int) and value.bit_length() > _SHOWN:
        return "a huge number"  # Python refuses to print integers of over 4300 digits
    # repr() escapes unprintable characters, including lone surrogates.
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
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg[:1].lower()}{error.msg[1:]}, line {error.lineno}, column {error.colno}"
    return str(error)
