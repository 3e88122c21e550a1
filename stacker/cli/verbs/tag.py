"""``stacker tag``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.cli.options import add_image
from stacker.cli.output import moved_document, print_item

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session

DESCRIPTION = """\
Give an image more names.  NAME is [HOST[:PORT]/]REPO[:TAG]; the default TAG is `latest`.  If
another image has the name, stacker moves the name, and prints a message.
"""
EXAMPLES = """\
  stacker tag 3f5a app:1.0
  stacker tag app:1.0 app registry.example/team/app:1.0
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_image(parser)
    parser.add_argument("names", metavar="NAME", nargs="+", help="new name of the image")


def run(args: Namespace, session: Session) -> None:
    """Name an image."""
    tagged = session.open(create=False).tag(args.image, *args.names)
    session.say_moved(tagged.moved, tagged.image_id)
    if session.json:
        moved = moved_document(tagged.moved)
        print_item("tag", {"image_id": str(tagged.image_id), "moved": moved})
