"""``stacker mounts``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.cli.output import add_template, print_list
from stacker.errors import shell_word
from stacker.linux import mountinfo
from stacker.mount.detach import clear_stale
from stacker.mount.table import Entry, Table

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterable

    from stacker.cli.output import Listing
    from stacker.cli.session import Session
    from stacker.linux.mountinfo import MountTable

DESCRIPTION = """\
List the mounts of the store.  STATE is one of
  mounted     the mount is in this mount namespace
  elsewhere   the mount is in another mount namespace
  busy        a process is mounting or unmounting it
  incomplete  a killed command left a part of a copy; `umount` removes it,
              and so does a new `mount` on the same target

MODE is rw if programs can write to the mount, and ro otherwise.

If a crash or a reboot has ended a mount, stacker prints its target to stderr and removes it from
the list.  stacker also discards the writes of `mount --rw`, and keeps those of `mount --upper`.
"""
EXAMPLES = """\
  stacker mounts
  stacker mounts --json
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_template(parser)


def run(args: Namespace, session: Session) -> None:
    """Clear stale mounts, then list the others."""
    table = Table(session.store(create=False).mounts)
    cleared = clear_stale(table)
    for record in cleared:
        session.say(f"cleared {record.target}: the mount of image {record.image} is gone")
    for path, point in table.unrecorded().items():
        session.warn(f"damaged mount record: {path}: unmount it with `umount {shell_word(point)}`")
    entries = [entry for entry in table.entries() if entry.state != "stale"]
    points = mountinfo.read()
    print_list(
        args,
        "mounts",
        [_document(entry, writable=_is_writable(entry, points)) for entry in entries],
        lambda: _table(entries, points),
        cleared=[_document(Entry(record, "stale"), writable=False) for record in cleared],
        as_json=session.json,
    )


def _is_writable(entry: Entry, points: MountTable) -> bool:
    """Return whether programs can write to a mount, now.

    A remount changes it, and without privileges the driver `copy` cannot make its copy read-only.
    """
    point = points.at(entry.record.target) if entry.state == "mounted" else None
    if point is not None:
        return not (point.read_only or "ro" in point.super_options.split(","))
    return not entry.record.read_only or entry.record.driver == "copy"


def _table(entries: Iterable[Entry], points: MountTable) -> Listing:
    rows = [
        (
            str(entry.record.target),
            entry.record.image.partition(":")[2][:12],
            entry.record.driver,
            "rw" if _is_writable(entry, points) else "ro",
            entry.state,
            entry.record.created,
        )
        for entry in entries
    ]
    return ("TARGET", "IMAGE ID", "DRIVER", "MODE", "STATE", "CREATED"), rows, ""


def _document(entry: Entry, *, writable: bool) -> dict[str, object]:
    record = entry.record
    return {
        "id": record.id,
        "image_id": record.image,
        "target": str(record.target),
        "driver": record.driver,
        "fuse_adapter": record.fuse_adapter,
        "read_only": record.read_only,
        "upper": None if record.upper is None else str(record.upper),
        "writable": writable,
        "state": entry.state,
        "created": record.created,
        "layers": [str(layer) for layer in record.layers],
    }
