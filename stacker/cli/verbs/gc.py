"""``stacker gc``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.cli.help import parse_time
from stacker.cli.output import print_items, print_text, size

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session

DESCRIPTION = """\
Remove objects that no image, mount or running command uses.  stacker prints the kind, the size and
the name of each removed object:

  layer      an unpacked layer that no image uses, or that `repair` replaced
  form       the tree or the EROFS form of a layer that has both, if no stack and no mount uses it
  chain      a stored stack of layers that no image uses, or that a newer one replaced
  blob       a manifest, a config or a layer's blob that no image uses
  partial    an interrupted download
  staging    a directory of unfinished work that a killed command left
  temporary  an unfinished document that a killed command left
  mount      the record of a mount that a crash or a reboot has ended
  image      an image without a name (with --untagged), or with a damaged manifest
  index      a damaged index of `stacker index create`

The size is the space on disk that the removal frees.  The size of an image includes its documents,
its chain and the layers that no other image has; stacker does not list these objects separately.

While a pull, an unpack or the start of a mount is running, stacker keeps all layers, chains, blobs
and images without a name.
"""
EXAMPLES = """\
  stacker gc --dry-run
  stacker gc
  stacker gc --untagged --older-than 7d
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add = parser.add_argument
    add("--dry-run", action="store_true", help="print what would be removed, and remove nothing")
    add(
        "--older-than",
        metavar="TIME",
        type=parse_time,
        default=0,
        help="keep layers, chains, blobs and interrupted downloads younger than TIME, such as 90s, "
        "30m, 12h or 7d (default: 0s)",
    )
    add("--untagged", action="store_true", help="also remove images without a name")


def run(args: Namespace, session: Session) -> None:
    """Remove unused objects, and print each of them."""
    found = session.open(create=False).collect_garbage(
        older_than=args.older_than,
        dry_run=args.dry_run,
        untagged=args.untagged,
    )
    if session.json:
        items = [{"kind": each.kind, "name": each.name, "bytes": each.size} for each in found]
        print_items("gc", items, removed=not args.dry_run)
        return
    for each in found:
        print_text(f"{each.kind:<9}  {size(each.size):>8}  {each.name}")
