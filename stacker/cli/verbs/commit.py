"""``stacker commit``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stacker.cli.output import print_event, print_line
from stacker.errors import UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker import ImageCommitted
    from stacker.cli.session import Session

DESCRIPTION = """\
Create an image from the writes of a mount.  TARGET is the mount point of `stacker mount --rw` or
`mount --upper`; UPPER is the directory of `mount --upper`, mounted or not.  The new image has the
layers of the mounted image, and one more layer with the writes.  The mount and its writes stay.
stacker flushes the new image to disk.  The last line on stdout is its image ID.

An upper directory belongs to the image that it was first mounted with.  stacker refuses to mount
another image with it.

If the environment variable SOURCE_DATE_EPOCH is set, the image has this creation time, and no file
in the new layer has a later time.  Equal writes then give equal images.
"""
EXAMPLES = """\
  stacker commit /mnt app:1.1
  stacker commit ./changes app:1.1 -c 'ENV LANG=C' -c 'CMD ["app"]'
  SOURCE_DATE_EPOCH=0 stacker commit /mnt app:1.1
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    from stacker.image.instructions import INSTRUCTIONS

    add = parser.add_argument
    add("path", metavar="TARGET|UPPER", help="mount point, or upper directory")
    add("name", metavar="NAME", help="name of the new image")
    add(
        "-c",
        "--change",
        metavar="INSTRUCTION",
        dest="changes",
        action="append",
        default=[],
        help="change the configuration of the image by an instruction of a Containerfile, such as "
        f"'ENV LANG=C'; repeatable; one of {', '.join(INSTRUCTIONS)}",
    )
    add("-a", "--author", metavar="TEXT", default="", help="author of the image")
    add("-m", "--message", metavar="TEXT", default="", help="comment in the history of the image")


def run(args: Namespace, session: Session) -> None:
    """Create the image, and print its ID."""
    from stacker.cli.progress import keeping, report_progress
    from stacker.events import ImageCommitted

    epoch, found = _epoch(os.environ), list[ImageCommitted]()
    with report_progress(session) as emit:
        session.open().commit(
            args.path,
            args.name,
            changes=args.changes,
            author=args.author,
            message=args.message,
            epoch=epoch,
            on_event=keeping(ImageCommitted, found, emit),
        )
    (committed,) = found
    for warning in committed.warnings:
        session.warn(warning)
    if session.json:
        print_event("commit", item=_document(committed))
    else:
        print_line(str(committed.image_id))


def _epoch(environ: os._Environ[str]) -> int | None:
    text = environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 11:
        raise UsageError(f"malformed SOURCE_DATE_EPOCH: got {text!r}, want seconds since 1970")
    return int(text)


def _document(committed: ImageCommitted) -> dict[str, object]:
    return {
        "image_id": str(committed.image_id),
        "base": str(committed.base),
        "diff_id": str(committed.diff_id),
        "entries": committed.entries,
        "warnings": list(committed.warnings),
    }
