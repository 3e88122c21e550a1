"""``stacker copy``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stacker.cli.exit import time_limit
from stacker.cli.options import add_archive_ratio, add_jobs
from stacker.cli.output import archive_stdout, print_event
from stacker.cli.registry_options import add_registries, add_sides, add_timeout, side_options
from stacker.cli.verbs.push import copied_document, print_digest, warn_foreign

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker import Copied
    from stacker.cli.session import Session

DESCRIPTION = """\
Copy an image between registries, layouts and archives.  stacker neither unpacks the image nor uses
the store.  It verifies every manifest and blob and copies it byte for byte, so digests stay the
same.  If SOURCE is an index, stacker copies only the image for one platform; with --all it copies
the index and all its images.  The last line on stdout is the digest of the manifest or index.

SOURCE is as for `stacker pull`, and DEST is as for `stacker push`.  A docker archive keeps the name
of an image from a registry or another docker archive.  stacker decompresses a compressed archive
into a temporary file in $TMPDIR (default: /var/tmp).

Between repositories of one registry, the registry mounts blobs, so stacker does not upload them.
Mirrors apply to SOURCE only.  The options for registries apply to both sides.  An option that
starts with --src or --dest applies to one side, and takes precedence there.

stacker does not copy foreign layers that have URLs in the manifest, even with --all.  They stay at
these URLs; stacker prints a warning for each.  stacker cannot copy an image of Docker schema 1:
pull it, then push it.
"""
EXAMPLES = """\
  stacker copy docker://registry.example/app:1.0 oci:./layout:1.0
  stacker copy --dest-authfile auth.json oci:./layout docker://registry.example/app:1.0
  stacker copy --all docker://registry.example/app:1.0 docker://registry.example/team/app:1.0
  stacker copy docker://registry.example/app:1.0 docker-archive:- | podman load
  stacker copy --platform linux/arm64 oci-archive:app.tar docker://registry.example/app:arm64
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("source", metavar="SOURCE", help="the image to copy")
    parser.add_argument("destination", metavar="DEST", help="where to copy the image")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--all", action="store_true", help="copy the whole index with all its images"
    )
    which.add_argument(
        "--platform",
        metavar="[OS/]ARCH[/VARIANT][:OSVERSION]",
        help="copy the image for this platform only (default: the best match for this machine)",
    )
    add_jobs(parser, "blobs to transfer")
    add_archive_ratio(parser)
    add_timeout(add_registries(parser))
    add_sides(parser)


def run(args: Namespace, session: Session) -> None:
    """Copy the image and print the digest of its manifest or index."""
    with time_limit(args.timeout, f"copy {args.source}"):
        copied = _copy(args, session)
    warn_foreign(copied, session)
    if session.json:
        item = {"source": args.source, "destination": args.destination}
        print_event("copy", item={**item, **copied_document(copied)})
    else:
        print_digest(copied, args.destination, session)


def _copy(args: Namespace, session: Session) -> Copied:
    from stacker import Limits, copy_image
    from stacker.cli.progress import report_progress

    with report_progress(session) as emit:
        return copy_image(
            args.source,
            args.destination,
            platform=args.platform,
            whole_index=args.all,
            registries=side_options(args, os.environ, "src"),
            destination_registries=side_options(args, os.environ, "dest"),
            limits=Limits(archive_ratio=args.max_archive_ratio),
            temporary=session.temporary,
            umask=session.umask,
            stdout=archive_stdout(args.destination, json=session.json),
            jobs=args.jobs,
            on_event=emit,
        )
