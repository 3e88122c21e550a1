"""What goes to stdout: lines, tables, and JSON documents of one versioned schema.

In come rows and plain values.  The schema is docs/cli-output.schema.json.  A table is drawn by
rich on a terminal only; anywhere else it is aligned text, and rich is not imported.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from stacker.cli.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMA = "stacker/v1"
"""The version of every document; within it fields are added, never changed or taken away."""


def print_line(text: str) -> None:
    """Print a line of data as it is: an ID, a driver's name, a path the caller gave."""
    sys.stdout.flush()
    sys.stdout.buffer.write(os.fsencode(text) + b"\n")


def print_text(text: str) -> None:
    """Print a line in which words of an image may stand."""
    print(printable(text).encode(_encoding(), "backslashreplace").decode(_encoding()))


def print_items(kind: str, items: Sequence[dict[str, object]], **more: object) -> None:
    """Print a document that lists things."""
    _print_document({"schema": SCHEMA, "kind": kind, "items": list(items), **more})


def print_item(kind: str, item: dict[str, object]) -> None:
    """Print a document about one thing."""
    _print_document({"schema": SCHEMA, "kind": kind, "item": item})


def print_event(kind: str, **content: object) -> None:
    """Print a document on one line, at once."""
    import json

    document = {"schema": SCHEMA, "kind": kind, **content}
    print(json.dumps(document, separators=(",", ":")), flush=True)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, right: str = "") -> None:
    """Print rows below headers.

    :param right: headers of numbers, a blank between them; their columns stand to the right.
    """
    cells = [[printable(cell) or "-" for cell in row] for row in rows]
    to_right = [header in right.split() for header in headers]
    if sys.stdout.isatty():
        _draw(headers, cells, to_right)
        return
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    for row in (headers, *cells):
        words = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, to_right, strict=True)
        ]
        print_text("  ".join(words).rstrip())


def _draw(headers: Sequence[str], rows: list[list[str]], to_right: list[bool]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for header, number in zip(headers, to_right, strict=True):
        table.add_column(header, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # as Text, so that brackets are not taken for markup
    Console().print(table)


def _print_document(document: dict[str, object]) -> None:
    import json

    # ASCII: bytes of a path that are no UTF-8 are lone surrogates (PEP 383), written as escapes.
    print(json.dumps(document, indent=2))


def _encoding() -> str:
    return sys.stdout.encoding or "utf-8"
