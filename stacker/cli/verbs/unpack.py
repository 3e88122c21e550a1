"""``stacker unpack``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.cli.output import print_item, print_line
from stacker.operations.unpack import unpack_image

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session

DESCRIPTION = """\
Write an image's merged root filesystem to DIR as plain files, for a runtime that wants no mount.
DIR must be missing or empty, and outside the store.  Where the filesystem can share blocks
(reflinks), files take no space until they are changed.  The last line on stdout is DIR.
"""
EXAMPLES = """\
  stacker unpack app:1.0 ./rootfs
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "image", metavar="IMAGE", help="an image ID, the first digits of one, or a name"
    )
    parser.add_argument("directory", metavar="DIR", help="a missing or empty directory")


def run(args: Namespace, session: Session) -> None:
    """Unpack, and print DIR."""
    image_id = unpack_image(session.store(), args.image, Path(args.directory))
    if session.json:
        path = os.path.realpath(args.directory)
        print_item("unpack", {"image_id": image_id, "directory": path})
    else:
        print_line(args.directory)
