"""``stacker umount``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stacker.cli.output import print_item
from stacker.mount.detach import detach
from stacker.mount.table import Table

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session

DESCRIPTION = """\
Take the mount at TARGET away.  Writes of --rw go with it, those of --upper stay.  A mount that
was lost in a crash or a reboot is cleared.
"""
EXAMPLES = """\
  stacker umount /mnt
  stacker umount --lazy /mnt    even while processes use it
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("target", metavar="TARGET", help="where it is mounted")
    parser.add_argument(
        "--lazy", action="store_true", help="detach it now, whoever uses it; they keep what is open"
    )


def run(args: Namespace, session: Session) -> None:
    """Unmount."""
    entry = detach(Table(session.store().mounts), Path(args.target), lazy=args.lazy)
    record = entry.record
    if entry.state == "stale":
        session.say(f"cleared {record.target}: nothing was mounted there any more")
    else:
        session.detail(f"unmounted {record.target} of image {record.image}")
    if session.json:
        print_item(
            "umount",
            {
                "id": record.id,
                "image_id": record.image,
                "target": str(record.target),
                "state": entry.state,
            },
        )
