"""Print results to stdout: lines, tables, and JSON documents of one versioned schema.

Functions take plain values and print them by docs/reference/cli-output.schema.json.  `print_list`
prints a table, JSON, or one line per object by a template, as the options of a verb select.  Texts
from an image are escaped, so that they cannot send control sequences to the terminal.  Only a
terminal gets a table drawn by rich; other outputs get aligned text, and rich is not imported.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, cast

from stacker.errors import StackerError, UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable, Iterator, Sequence
    from typing import BinaryIO

    Document = dict[str, object]
    Listing = tuple[Sequence[str], Sequence[Sequence[str]], str]
    """The headers, the rows, and the headers of the right-aligned columns."""

SCHEMA = "stacker/v1"
"""Version of every document.  A version may add fields; it never changes or removes one."""

_UNITS = "KMGTP"
_NARROWEST = 16  # characters of the first column of a table


def printable(text: str) -> str:
    r"""Return text with every non-printable character as an escape.

    That covers control sequences and changes of the writing direction.

    >>> printable("caf\u00e9 \x1b[31m")
    'café \\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def shortened(text: str, limit: int) -> str:
    """Return text on one line, cut to at most ``limit`` characters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def size(count: int) -> str:
    """Return a number of bytes with a binary unit.

    >>> size(1536)
    '1.5 KiB'
    """
    if count < 1024:
        return f"{count} B"
    value = float(count)
    unit = ""
    for unit in _UNITS:  # noqa: B007 - it is used after the loop
        value /= 1024
        if round(value, 1) < 1024:
            break
    return f"{value:.1f} {unit}iB"


def print_line(text: str) -> None:
    """Print a result verbatim: an ID, a driver's name, a path that the caller gave."""
    with writing():
        sys.stdout.flush()
        sys.stdout.buffer.write(os.fsencode(text) + b"\n")


def print_text(text: str, *, tabs: bool = False) -> None:
    """Print a line that may contain texts of an image; non-printable characters are escaped.

    :param tabs: do not escape tabs.
    """
    text = "\t".join(map(printable, text.split("\t"))) if tabs else printable(text)
    _print(text.encode(_encoding(), "backslashreplace").decode(_encoding()))


def print_document(content: bytes) -> None:
    """Print a document of an image as it is; on a terminal, escape non-printable characters."""
    if sys.stdout.isatty():
        for line in content.decode(errors="backslashreplace").splitlines():
            print_text(line, tabs=True)
        return
    with writing():
        sys.stdout.flush()
        sys.stdout.buffer.write(content)


def print_items(kind: str, items: Sequence[dict[str, object]], **more: object) -> None:
    """Print a JSON document with a list of items."""
    _print_document({"schema": SCHEMA, "kind": kind, "items": list(items), **more})


def moved_document(moved: Sequence[tuple[str, object]]) -> list[dict[str, object]]:
    """Return the JSON of names that moved, each with the image that had it before."""
    return [{"name": name, "from": str(image_id)} for name, image_id in moved]


def print_item(kind: str, item: dict[str, object]) -> None:
    """Print a JSON document with one item."""
    _print_document({"schema": SCHEMA, "kind": kind, "item": item})


def print_event(kind: str, **content: object) -> None:
    """Print a JSON document on one line, and flush stdout."""
    import json

    document = {"schema": SCHEMA, "kind": kind, **content}
    _print(json.dumps(document, separators=(",", ":")))
    flush()


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, right: str = "") -> None:
    """Print a table.

    :param right: headers of the right-aligned columns, separated by blanks.
    """
    cells = [[printable(cell) or "-" for cell in row] for row in rows]
    is_right = [header in right.split() for header in headers]
    if sys.stdout.isatty():
        _draw(headers, cells, is_right)
        return
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    for row in (headers, *cells):
        words = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, is_right, strict=True)
        ]
        print_text("  ".join(words).rstrip())


def _draw(headers: Sequence[str], rows: list[list[str]], is_right: list[bool]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    count = _fitting([headers, *rows], console.width)
    for header, number in zip(headers[:count], is_right, strict=False):
        table.add_column(header, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row[:count]))  # rich interprets brackets in a str as markup
    with writing():
        console.print(table)


def _fitting(rows: Sequence[Sequence[str]], width: int) -> int:
    """Return how many columns fit; only the first may fold, to `_NARROWEST` characters."""
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    used, count = min(first, _NARROWEST), 1
    for other in others:
        used += 2 + other
        if used > width:
            break
        count += 1
    return count


def _print_document(document: dict[str, object]) -> None:
    import json

    # JSON in ASCII: bytes of a path that are not UTF-8 are lone surrogates (PEP 383).
    _print(json.dumps(document, indent=2))


def flush() -> None:
    """Flush stdout.

    :raises BrokenPipeError: the reader closed the pipe.
    :raises StackerError: another error of write(2), such as a full disk.
    """
    with writing():
        sys.stdout.flush()


@contextmanager
def writing() -> Iterator[None]:
    """Report errors of write(2) as errors of stdout, which has no filename in an `OSError`.

    :raises BrokenPipeError: the reader closed the pipe.
    :raises StackerError: any other error.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_stdout()
        raise StackerError(f"cannot write to stdout: {error.strerror}") from error


class Stdout:
    """Stdout as a file for the bytes of an archive."""

    def write(self, data: bytes) -> int:
        """Write all bytes; see `writing` for the errors."""
        with writing():
            return sys.stdout.buffer.write(data)

    def flush(self) -> None:
        """Flush stdout; see `writing` for the errors."""
        with writing():
            sys.stdout.buffer.flush()


def require_no_terminal(what: str, *, hint: str) -> None:
    """Refuse to write bytes to a terminal.

    :param what: what would be written.
    :raises UsageError: stdout is a terminal.
    """
    if sys.stdout.isatty():
        raise UsageError(f"refusing to write {what} to a terminal", hint=hint)


def archive_stdout(destination: str, *, json: bool) -> BinaryIO | None:
    """Return stdout if `destination` is an archive on stdout, otherwise None.

    :param json: the command prints JSON documents to stdout.
    :raises UsageError: stdout has JSON, or is a terminal.
    """
    from stacker.image.location import STDOUT, is_archive_on

    if not is_archive_on(destination, STDOUT):
        return None
    if json:
        raise UsageError("--json requires a file: got an archive on stdout", hint="name a file")
    require_no_terminal("an archive", hint="name a file, or redirect stdout")
    return cast("BinaryIO", Stdout())


def discard_stdout() -> None:
    """Redirect stdout to /dev/null, so that a later flush does not fail again."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _print(line: str) -> None:
    with writing():
        print(line)


def _encoding() -> str:
    return sys.stdout.encoding or "utf-8"


def add_template(parser: ArgumentParser) -> None:
    """Add the option that selects fields of a list."""
    parser.add_argument(
        "--format",
        metavar="TEMPLATE",
        dest="template",
        help="print TEMPLATE for each object, with the fields of --json in the syntax of Python's "
        "str.format, for example '{image_id} {bytes[total]}'; \\t is a tab, \\n a new line",
    )


def print_list(
    args: Namespace,
    kind: str,
    documents: Sequence[Document],
    table: Callable[[], Listing],
    *,
    as_json: bool,
    **more: object,
) -> None:
    """Print a list as ``--format`` and ``--json`` select.

    :param kind: the ``kind`` of the JSON document.
    :param table: called if neither option is given.
    :param more: more fields of the JSON document.
    :raises UsageError: the template is malformed, or has an unknown field.
    """
    if args.template is not None:
        template = args.template.replace("\\t", "\t").replace("\\n", "\n")
        for document in documents:
            for line in _filled(template, document).split("\n"):
                print_text(line, tabs=True)
    elif as_json:
        print_items(kind, documents, **more)
    else:
        headers, rows, right = table()
        print_table(headers, rows, right=right)


def _filled(template: str, document: Document) -> str:
    try:
        return template.format_map(document)
    except (KeyError, IndexError, AttributeError, TypeError) as error:
        fault = f"got the unknown field {error}, want one of {', '.join(document)}"
    except ValueError as error:
        fault = str(error)
    raise UsageError(
        f"malformed template: {template!r}: {fault}", hint="--json shows the fields of each object"
    )
