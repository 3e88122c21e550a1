"""``stacker umount``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stacker.cli.output import print_item, print_items
from stacker.errors import NotFoundError, StackerError, UsageError
from stacker.linux import mountinfo
from stacker.mount.detach import detach
from stacker.mount.plan import source_of
from stacker.mount.table import Table

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session
    from stacker.mount.record import MountRecord
    from stacker.mount.table import Entry

DESCRIPTION = """\
Unmount TARGET.  stacker discards the writes of `mount --rw`, and keeps those of `mount --upper`.
If a crash or a reboot has ended the mount, stacker removes it from the list of mounts.
"""
EXAMPLES = """\
  stacker umount /mnt
  stacker umount --lazy /mnt    detach the mount while processes use it
  stacker umount --all          unmount every mount of the store
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add = parser.add_argument
    add("target", metavar="TARGET", nargs="?", help="mount point")
    add(
        "--all",
        action="store_true",
        help="unmount every mount in this mount namespace, except those of `stacker run`",
    )
    add(
        "--lazy",
        action="store_true",
        help="detach the mount now, even if it is busy; processes keep their open files",
    )
    add("--idempotent", action="store_true", help="succeed if nothing is mounted at TARGET")


def run(args: Namespace, session: Session) -> None:
    """Unmount a target, or all of them."""
    if (args.target is None) != args.all:
        raise UsageError(
            "got --all and TARGET, want one of them" if args.all else "missing TARGET",
            hint="`stacker mounts` lists the mounts; --all unmounts all of them",
        )
    table = Table(session.store(create=False).mounts)
    if args.all:
        _unmount_all(args, table, session)
        return
    try:
        entry = detach(table, Path(args.target), lazy=args.lazy)
    except NotFoundError:
        if not args.idempotent:
            raise
        session.detail(f"nothing to unmount: {args.target}")
        return
    _report(table, entry, session)
    if session.json:
        print_item("umount", _document(entry))


def _unmount_all(args: Namespace, table: Table, session: Session) -> None:
    """Unmount every mount, the newest first, and report the failures at the end."""
    entries = [entry for entry in table.entries() if not _is_left_alone(entry)]
    done: list[dict[str, object]] = []
    failures: list[StackerError] = []
    for entry in sorted(entries, key=lambda each: each.record.created, reverse=True):
        try:
            detached = detach(table, entry.record.target, lazy=args.lazy)
        except StackerError as error:
            failures.append(error)
            continue
        _report(table, detached, session)
        done.append(_document(detached))
    if session.json:
        print_items("umount", done)
    for failure in failures[:-1]:
        session.say(failure.message)
    if failures:
        raise failures[-1]


def _is_left_alone(entry: Entry) -> bool:
    """Return whether another mount namespace has a mount, or a container runs in it."""
    runs = entry.record.runtime is not None and entry.state != "stale"
    return entry.state == "elsewhere" or runs


def _report(table: Table, entry: Entry, session: Session) -> None:
    record = entry.record
    if table.read(record.id) is not None:
        session.say(session.with_store(_still_mounted(record)))
    if entry.state == "stale":
        session.say(f"cleared {record.target}: the mount was already gone")
    else:
        session.detail(f"unmounted {record.target} of image {record.image}")


def _document(entry: Entry) -> dict[str, object]:
    record = entry.record
    return {
        "id": record.id,
        "image_id": record.image,
        "target": str(record.target),
        "state": entry.state,
    }


def _still_mounted(record: MountRecord) -> str:
    """Return the message about a mount that has another mount point."""
    source = source_of(record.id)
    points = [str(m.mount_point) for m in mountinfo.read().mounts if m.source == source]
    where = ", ".join(points) or "in another mount namespace"
    return (
        f"unmounted {record.target}, but the same mount is still {'at ' * bool(points)}{where}: "
        "`stacker gc` removes its files after it is unmounted there"
    )
