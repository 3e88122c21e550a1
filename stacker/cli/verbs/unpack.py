"""``stacker unpack``: the root filesystem of an image as a directory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stacker.cli.options import add_image
from stacker.cli.output import print_item, print_line
from stacker.cli.pulling import add_pull, pulled

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session

DESCRIPTION = """\
Unpack the merged root filesystem of an image into DIR, instead of mounting it.  DIR must be empty
or missing, and outside the store.  On a filesystem with reflinks, files share their blocks with the
store.  The last line on stdout is DIR.
"""
EXAMPLES = """\
  stacker unpack app:1.0 ./rootfs
  stacker unpack oci:./layout ./rootfs
  chroot ./rootfs /bin/sh            run a program in it, as root
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_image(parser)
    add_pull(parser)
    parser.add_argument("directory", metavar="DIR", help="empty or missing directory")


def run(args: Namespace, session: Session) -> None:
    """Unpack an image, and print DIR."""
    store = session.open()
    image = pulled(args.image, args.pull, store.find, session)
    image_id = store.unpack(image, args.directory, on_event=session.notice)
    if session.json:
        path = os.path.realpath(args.directory)
        print_item("unpack", {"image_id": str(image_id), "directory": path})
    else:
        print_line(args.directory)
