"""Print a list of objects: as a table, as JSON, or one line per object by a template.

The verb makes JSON documents and the rows of a table; this module prints the one that the options
select.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.cli.output import print_items, print_table, print_text
from stacker.errors import UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable, Sequence

    from stacker.cli.session import Session

    Document = dict[str, object]
    Listing = tuple[Sequence[str], Sequence[Sequence[str]], str]
    """The headers, the rows, and the headers of the right-aligned columns."""


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
    session: Session,
    kind: str,
    documents: Sequence[Document],
    table: Callable[[], Listing],
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
    elif session.json:
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
