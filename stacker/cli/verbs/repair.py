"""``stacker repair``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.cli.options import add_archive_ratio, add_limits
from stacker.cli.output import print_items, print_line
from stacker.cli.registry_options import add_registries
from stacker.cli.verbs.verify import add_choice, require_choice
from stacker.errors import UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session

DESCRIPTION = """\
Verify images as `stacker verify` does, and unpack their damaged layers again.  stacker reads the
blobs from the store if `pull --keep-blobs` kept them, else from the SOURCE of the pull.  It builds
damaged chains again from their layers.  Existing mounts use the damaged layers and chains until
they are unmounted.  stacker prints the diff_id of each replaced layer, and the ID of each replaced
chain.

The limits of `pull` apply, since a source can have changed.  If the pull needed a higher limit,
give it to `repair`, too.

--seal also enables fs-verity on every file of the images.  From then on, the kernel compares each
page with its hash when it reads the page from the disk, and reads of a damaged page fail.  `stacker
verify --fast` also notices a file that replaced a sealed one.  The filesystem must be ext4 or f2fs
with the feature `verity`, or btrfs.
"""
EXAMPLES = """\
  stacker repair app:1.0
  stacker repair --all
  stacker repair --seal --all    let the kernel check what it reads from the disk
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_choice(parser, every="repair every image", what="unpack")
    parser.add_argument(
        "--seal",
        action="store_true",
        help="enable fs-verity on the files; cannot be combined with --fast",
    )
    add_registries(parser)
    add_archive_ratio(parser)
    add_limits(parser)


def run(args: Namespace, session: Session) -> None:
    """Replace damaged layers and chains, print their IDs, and seal the layers with --seal."""
    if args.seal and args.fast:
        raise UsageError("contradictory options: got --seal and --fast, want one of them")
    require_choice(args)
    store = session.open(args)
    repaired = store.repair(*args.images, contents=not args.fast, jobs=args.jobs)
    session.warn_rewritten(repaired.rewritten)
    sealed = store.seal(*args.images, jobs=args.jobs) if args.seal else 0
    chains = [str(chain_id) for chain_id in repaired.chains]
    if session.json:
        items: list[dict[str, object]]
        items = [{"diff_id": str(d), "source": origin} for d, origin in repaired.layers.items()]
        print_items("repair", items, chains=chains, sealed=sealed)
    else:
        for digest in (*map(str, repaired.layers), *chains):
            print_line(digest)
