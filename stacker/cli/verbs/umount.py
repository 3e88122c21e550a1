"""``stacker umount``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stacker.cli.output import print_item
from stacker.linux import mountinfo
from stacker.mount.detach import detach
from stacker.mount.plan import source_of
from stacker.mount.table import Table

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session
    from stacker.mount.record import MountRecord

DESCRIPTION = """\
Unmount TARGET.  stacker discards the writes of `mount --rw`, and keeps those of `mount --upper`.
If a crash or a reboot has ended the mount, stacker removes it from the list of mounts.
"""
EXAMPLES = """\
  stacker umount /mnt
  stacker umount --lazy /mnt    detach the mount while processes use it
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("target", metavar="TARGET", help="mount point")
    parser.add_argument(
        "--lazy",
        action="store_true",
        help="detach the mount now, even if it is busy; processes keep their open files",
    )


def run(args: Namespace, session: Session) -> None:
    """Unmount."""
    table = Table(session.store(create=False).mounts)
    entry = detach(table, Path(args.target), lazy=args.lazy)
    record = entry.record
    if table.read(record.id) is not None:
        session.say(session.with_store(_still_mounted(record)))
    if entry.state == "stale":
        session.say(f"cleared {record.target}: the mount was already gone")
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


def _still_mounted(record: MountRecord) -> str:
    """Return the message about a mount that has another mount point."""
    source = source_of(record.id)
    points = [str(m.mount_point) for m in mountinfo.read().mounts if m.source == source]
    where = ", ".join(points) or "in another mount namespace"
    return (
        f"unmounted {record.target}, but the same mount is still {'at ' * bool(points)}{where}: "
        "`stacker gc` removes its files after it is unmounted there"
    )
