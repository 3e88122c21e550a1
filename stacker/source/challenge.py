"""What a server asks of who wants in: the WWW-Authenticate header.

In come header values, out come challenges.  How one is met is not known here.
Source: RFC 9110, sections 11.3 and 11.6.1; distribution's token specification for ``Bearer``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - the grammar's word, not a secret
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))[ \t]*')
_SCHEME = re.compile(rf"({_TOKEN})(?:[ \t]+|(?=,|$))")
_ESCAPED = re.compile(r"\\(.)")
_LONGEST = 16 * 1024


@dataclass(frozen=True, slots=True)
class Challenge:
    """One scheme in lower case, such as ``bearer``, with its parameters; their names, too."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """Return the challenges of all WWW-Authenticate headers of an answer, in their order.

    What is malformed ends the reading of its header: what came before it counts.
    """
    return [challenge for value in values for challenge in _challenges(value[:_LONGEST])]


def _challenges(text: str) -> list[Challenge]:
    found: list[tuple[str, dict[str, str]]] = []
    at = 0
    while at < len(text):
        if text[at] in ", \t":
            at += 1
        elif found and (match := _PARAMETER.match(text, at)):
            name, quoted, plain = match.groups()
            value = plain if quoted is None else _ESCAPED.sub(r"\1", quoted)
            found[-1][1].setdefault(name.lower(), value)
            at = match.end()
        elif match := _SCHEME.match(text, at):
            found.append((match[1].lower(), {}))
            at = match.end()
        else:
            break
    return [Challenge(scheme, parameters) for scheme, parameters in found]
