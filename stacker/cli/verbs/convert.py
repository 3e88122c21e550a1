"""``stacker convert``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.cli.options import add_image, add_jobs
from stacker.cli.output import print_event, print_line
from stacker.layer.paths import FORMS

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session

DESCRIPTION = """\
Convert the layers of an image to another form.  stacker does not need the SOURCE of the pull.  A
layer has the form `tree`, a directory with its files, or `erofs`, its uncompressed tar with an
EROFS index.  stacker verifies each layer against its diff_id while it converts it.  A layer keeps
its old form, too, if a mount or another image uses it.  Existing mounts do not change.
"""
EXAMPLES = """\
  stacker convert app:1.0 --form erofs
  stacker convert app:1.0 --form tree
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_image(parser)
    parser.add_argument("--form", choices=FORMS, required=True, help="the new form of the layers")
    add_jobs(parser, "layers to convert")


def run(args: Namespace, session: Session) -> None:
    """Convert the image, and print its ID."""
    from stacker.cli.progress import report_progress

    store = session.open()
    image_id = store.find(args.image)
    with report_progress(session) as emit:
        added, dropped = store.convert(image_id, args.form, jobs=args.jobs, on_event=emit)
    if session.json:
        item = {"image_id": str(image_id), "form": args.form, "added": added, "removed": dropped}
        print_event("convert", item=item)
    else:
        print_line(str(image_id))
