"""The argument parser of the command line: usage, help and messages in stacker's own words.

A verb adds its arguments to a `Parser`, which returns parsed arguments, prints a help text, or
raises `UsageError`.  Man pages and docs/reference/cli.md contain the same text, so it must not
depend on the Python version: argparse of 3.13 writes options differently from 3.11.  This module
does not use verbs, the store or the environment.
"""

# ruff: noqa: SLF001 - argparse has no public interface to a parser's groups and actions

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from stacker.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDEST = 100
"""The longest line of a help text, in characters."""

_COLUMN = 28
_TITLES = {"positional arguments": "Arguments", "options": "Options"}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_TIME = r"(\d{1,9})([smhd]?)"  # compiled at its use, which most commands do not reach

_UNKNOWN = "unknown option: "
# Options of podman, skopeo and docker, and stacker's options with the same meaning.
_SYNONYMS = {
    **dict.fromkeys(("--arch", "--os", "--variant"), ("--platform",)),
    **dict.fromkeys(("--override-arch", "--override-os", "--override-variant"), ("--platform",)),
    **dict.fromkeys(("-p", "--password"), ("--password-stdin",)),
    **dict.fromkeys(("--multi-arch", "-a"), ("--all",)),
    **dict.fromkeys(("-t", "--tag"), ("--name",)),
    **dict.fromkeys(("--tlsverify", "-k"), ("--tls-verify",)),
    "--no-trunc": ("--json",),
    "-o": ("--output",),
    "-f": ("--force", "--filter", "--format"),
    "--read-write": ("--rw",),
    "-l": ("--lazy",),
}
# The messages of argparse, and their replacements of the form *what failed: which object*.
_MESSAGES = (
    (r"the following arguments are required: (.+)", r"missing argument: \1"),
    (r"unrecognized arguments: (-\S*).*", rf"{_UNKNOWN}\1"),  # a later word can be a password
    (r"unrecognized arguments: (.*)", r"too many arguments: \1"),
    (r"argument (.+?): expected .*", r"missing value: \1"),
    (
        r"argument (.+?): ignored explicit argument (.+)",
        r"unexpected value: \1: got \2, want no value",
    ),
    (r"argument (.+?): not allowed with argument (.+)", r"options exclude each other: \1, \2"),
    (r"argument (.+?): (got .+)", r"invalid value: \1: \2"),
)


class _Formatter(argparse.HelpFormatter):
    """The formatter that argparse checks metavars with.

    With an explicit width it does not import shutil, which costs start-up time.
    """

    def __init__(self, prog: str, **_: object) -> None:
        super().__init__(prog, width=WIDEST)


class Parser(argparse.ArgumentParser):
    """A parser that raises `UsageError`, accepts no abbreviations and renders its own help."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("allow_abbrev", False)
        options.setdefault("add_help", False)
        options.setdefault("formatter_class", _Formatter)
        super().__init__(**options)

    def error(self, message: str) -> NoReturn:
        """Raise argparse's message in stacker's words.

        :raises UsageError: always.
        """
        for pattern, words in _MESSAGES:
            if found := re.fullmatch(pattern, message, re.DOTALL):
                message = found.expand(words)
                break
        hint = f"`{self.prog} --help` lists its arguments and options"
        if message.startswith(_UNKNOWN):
            hint = self._guess(message.removeprefix(_UNKNOWN)) or hint
        raise UsageError(message, hint=hint)

    def _guess(self, option: str) -> str | None:
        """Return a hint with the option that a user of another program means."""
        import difflib  # only a mistake needs it

        option, known = option.partition("=")[0], self._option_string_actions
        close = difflib.get_close_matches(option, known, 1, 0.75)
        for found in (*_SYNONYMS.get(option, ()), *close):
            if found in known:
                return f"did you mean `{found}`?"
        return None

    def format_usage(self) -> str:
        """Return the usage line."""
        return f"Usage: {usage(self)}\n"

    def format_help(self) -> str:
        """Return the help text: usage, description, arguments and options by group, examples."""
        parts = [self.format_usage(), self.description or ""]
        parts += ["\n".join(group_lines(title, group)) for title, group in groups(self)]
        parts.append(self.epilog or "")
        return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            choices = ", ".join(map(str, action.choices))
            raise argparse.ArgumentError(action, f"got {value!r}, want one of {choices}")


def usage(parser: argparse.ArgumentParser) -> str:
    """Return the usage of a command: its name, its options and its arguments.

    Options that are not required are ``[OPTION]...``.
    """
    if parser.usage is not None:
        return parser.usage
    required = [term(action) for action in parser._get_optional_actions() if action.required]
    words = [parser.prog, *required, "[OPTION]..."]
    return " ".join([*words, *map(_word, parser._get_positional_actions())])


def _word(action: argparse.Action) -> str:
    name = term(action)
    if isinstance(action, argparse._SubParsersAction):
        return f"{name} [ARGUMENT]..."
    return {"+": f"{name}...", "?": f"[{name}]", "*": f"[{name}]...", "...": f"[{name}]..."}.get(
        str(action.nargs), name
    )


def groups(
    parser: argparse.ArgumentParser,
) -> Iterator[tuple[str, argparse._ArgumentGroup]]:
    """Yield the title of each group of arguments and options, and the group."""
    for group in parser._action_groups:
        if visible(group):
            title = group.title or ""
            yield _TITLES.get(title, title[:1].upper() + title[1:]), group


def visible(group: argparse._ArgumentGroup) -> list[argparse.Action]:
    """Return the arguments and options of a group that have a help text."""
    return [action for action in group._group_actions if action.help != argparse.SUPPRESS]


def group_lines(title: str, group: argparse._ArgumentGroup) -> list[str]:
    """Return the lines of a help text about a group."""
    lines = [f"{title}:"]
    if group.description:
        lines.append(f"  {group.description}")
    for action in visible(group):
        lines += _entry(term(action), description(action))
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                lines += _entry(f"  {choice.dest}", choice.help or "")
    return lines


def term(action: argparse.Action) -> str:
    """Return the term of an argument or option in a help text: ``-u, --username NAME``."""
    value = str(action.metavar or action.dest)
    if action.choices is not None and action.metavar is None:
        value = f"{{{','.join(map(str, action.choices))}}}"
    if not action.option_strings:
        return value
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {value}"


def description(action: argparse.Action) -> str:
    """Return the help of an argument or option, with its default filled in."""
    return (action.help or "") % {"default": action.default}


def _entry(words: str, text: str) -> list[str]:
    import textwrap  # only a help text needs it

    indent = "      " if words.startswith("--") else "  "
    head = indent + words
    lines = textwrap.wrap(text, max(width() - _COLUMN, 20), break_on_hyphens=False)
    first = [head] if not lines or len(head) > _COLUMN - 2 else []
    if not first:
        first = [f"{head:<{_COLUMN}}{lines.pop(0)}"]
    return [*first, *(" " * _COLUMN + line for line in lines)]


def width() -> int:
    """Return the columns of the terminal, at most `WIDEST`; `WIDEST` without a terminal."""
    try:
        return min(os.get_terminal_size(sys.stdout.fileno()).columns, WIDEST)
    except (AttributeError, OSError, ValueError):  # no terminal, or stdout is closed
        return WIDEST


def parse_size(text: str) -> int:
    """Return the bytes that ``512``, ``64K``, ``10M``, ``2G`` or ``1T`` means; K is 1024.

    :raises ArgumentTypeError: the text is not a size.
    """
    from stacker.api import config  # few commands have such an option

    try:
        return config.parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parse_time(text: str) -> int:
    """Return the seconds that ``90``, ``90s``, ``30m``, ``12h`` or ``7d`` means.

    :raises ArgumentTypeError: the text is not a number and a unit.
    """
    found = re.fullmatch(_TIME, text, re.ASCII)
    if found is None:
        raise argparse.ArgumentTypeError(f"got {text!r}, want a number and s, m, h or d")
    return int(found[1]) * _SECONDS[found[2] or "s"]


def parse_count(text: str) -> int:
    """Return a whole number, one or more.

    :raises ArgumentTypeError: the text is not such a number.
    """
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, want a whole number, one or more")
    return int(text)
