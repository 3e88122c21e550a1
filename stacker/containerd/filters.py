"""Filters of containerd's List calls, as its package pkg/filters defines them.

The text of a filter and a function that reads fields come in; whether an object matches goes out.
A filter is a list of selectors, separated by commas, that must all match: ``kind==active``,
``labels."a.b"!=c``, ``name~=/^x/``, or ``parent`` alone, which tests that the field is present.
This module must not know which fields an object has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from stacker.containerd.status import Code, StatusError

Fields: TypeAlias = Callable[[tuple[str, ...]], str | None]
"""Return the value of a field path, or ``None`` if the object does not have the field."""

_FIELD: Final = re.compile(r"[A-Za-z0-9_]+")
_OPERATOR: Final = re.compile(r"[=!~]+")
_VALUE: Final = re.compile(r"[^\s,]+")
_SPACE: Final = re.compile(r"\s*")
_QUOTED: Final = re.compile(r'(?s:(["/|])((?:\\.|(?!\1)[^\n\\])*)\1)')
_ESCAPE: Final = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))", re.DOTALL
)
_LETTERS: Final = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


@dataclass(frozen=True, slots=True)
class Selector:
    """One comparison of a filter.

    :param path: the field path.
    :param operator: ``==``, ``!=``, ``~=``, or empty to test that the field is present.
    :param value: what the operator compares with.
    """

    path: tuple[str, ...]
    operator: str = ""
    value: str = ""

    def matches(self, fields: Fields) -> bool:
        """Return whether an object matches."""
        found = fields(self.path)
        match self.operator:
            case "==":
                return found == self.value
            case "!=":
                return (found or "") != self.value
            case "~=":
                return _is_found(self.value, found or "")
            case _:
                return found is not None


def parsed(texts: Iterable[str]) -> Callable[[Fields], bool]:
    """Return a function that tells whether an object matches any of several filters.

    Without filters, and with an empty one, every object matches.

    :raises StatusError: INVALID_ARGUMENT, because a filter is malformed.
    """
    filters = [_Parser(text).selectors() for text in texts]

    def matches(fields: Fields) -> bool:
        return not filters or any(all(each.matches(fields) for each in one) for one in filters)

    return matches


class _Parser:
    """Read one filter from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0

    def selectors(self) -> list[Selector]:
        found = []
        if self._text:
            found.append(self._selector())
            while self._skip(","):
                found.append(self._selector())
            if self._position != len(self._text):
                raise self._refusal("a comma or the end")
        return found

    def _selector(self) -> Selector:
        path = [self._field()]
        while self._skip("."):
            path.append(self._field())
        operator = self._next(_OPERATOR)
        if not operator:
            return Selector(tuple(path))
        if operator not in {"==", "!=", "~="}:
            raise self._refusal("==, != or ~=")
        return Selector(tuple(path), operator, self._value(alternatives=operator == "~="))

    def _field(self) -> str:
        if self._peek() in {'"', "/", "|"}:
            return self._quoted(alternatives=False)
        found = self._next(_FIELD)
        if not found:
            raise self._refusal("a field")
        return found

    def _value(self, *, alternatives: bool) -> str:
        if self._peek() in {'"', "/", "|"}:
            return self._quoted(alternatives=alternatives)
        found = self._next(_VALUE)
        if not found:
            raise self._refusal("a value")
        return found

    def _quoted(self, *, alternatives: bool) -> str:
        found = _QUOTED.match(self._text, self._position)
        if not found or (found[1] != '"' and not alternatives):
            raise self._refusal("a string in double quotes")
        self._position = found.end()
        try:
            return _ESCAPE.sub(lambda escape: _unescaped(escape, found[1]), found[2])
        except ValueError:
            raise self._refusal("a valid escape sequence") from None

    def _peek(self) -> str:
        self._skip_spaces()
        return self._text[self._position : self._position + 1]

    def _skip(self, character: str) -> bool:
        if self._peek() != character:
            return False
        self._position += 1
        return True

    def _next(self, expression: re.Pattern[str]) -> str:
        self._skip_spaces()
        found = expression.match(self._text, self._position)
        if not found:
            return ""
        self._position = found.end()
        return found[0]

    def _skip_spaces(self) -> None:
        if found := _SPACE.match(self._text, self._position):
            self._position = found.end()

    def _refusal(self, wanted: str) -> StatusError:
        rest = json.dumps(self._text[self._position :])
        return StatusError(
            Code.INVALID_ARGUMENT, f"malformed filter: {self._text}: got {rest}, want {wanted}"
        )


def _is_found(expression: str, text: str) -> bool:
    """Search for a regular expression; containerd treats a malformed one as one without matches."""
    try:
        return re.search(expression, text) is not None
    except re.error:
        return False


def _unescaped(found: re.Match[str], quote: str) -> str:
    """Return the character of one escape sequence of a Go string."""
    short, four, eight, octal, letter = found.groups()
    if letter is None:
        return chr(int(octal, 8) if octal else int(short or four or eight, 16))
    if letter in {"\\", quote}:
        return letter
    if letter not in _LETTERS:
        raise ValueError(letter)
    return _LETTERS[letter]
