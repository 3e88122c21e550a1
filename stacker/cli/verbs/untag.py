"""``stacker untag``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.cli.output import print_items

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session

DESCRIPTION = """\
Remove names.  An image stays in the store without its last name, and `images` shows it as <none>;
`rm` or `gc --untagged` removes it.  If a NAME does not exist (exit code 3), stacker removes none.
"""
EXAMPLES = """\
  stacker untag app:1.0
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("names", metavar="NAME", nargs="+", help="name of an image")


def run(args: Namespace, session: Session) -> None:
    """Remove names."""
    removed = session.open(create=False).untag(*args.names)
    if session.json:
        print_items(
            "untag",
            [{"name": name, "image_id": str(image_id)} for name, image_id in removed.items()],
        )
