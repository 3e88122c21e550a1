"""``stacker push``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.cli.exit import time_limit
from stacker.cli.help import parse_count
from stacker.cli.options import add_image, add_jobs
from stacker.cli.output import archive_stdout, print_event, print_line
from stacker.cli.registry_options import add_registries, add_timeout
from stacker.image.document import quoted
from stacker.image.location import STDOUT, is_archive_on

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker import Copied, Pushed
    from stacker.cli.session import Session

DESCRIPTION = """\
Push an image from the store to a registry, a layout or an archive.  stacker sends the config byte
for byte, so the image keeps its ID.  If the store (`pull --keep-blobs`) or DEST has the original
blob of a layer, stacker uses that blob.  Otherwise it builds the tar of the layer again from its
files, verifies the diff_id and compresses the tar.  If stacker compresses no layer, the manifest
and its digest stay the same.  The last line on stdout is the digest of the manifest.

DEST is one of
  [docker://]HOST[:PORT]/REPO[:TAG] a registry
  oci:DIR[:NAME]                    an OCI image layout, created if missing
  oci-archive:FILE[:NAME]           a new tar archive of an OCI image layout
  docker-archive:FILE[:NAME]        a new archive for `docker load` and `podman load`
With - as FILE, the archive goes to stdout; with -v, the digest goes to stderr.  Without NAME, a
docker archive has the name IMAGE, unless IMAGE is an ID.
stacker does not upload blobs that the repository has.  If stacker pulled a blob from another
repository of the same registry, the registry mounts the blob from there.  stacker resumes an upload
after a lost connection.  The locations and blocked registries of containers-registries.conf(5)
apply; its mirrors and short names do not.

stacker does not push foreign layers that have URLs in the manifest.  They stay at these URLs;
stacker prints a warning for each.
"""
EXAMPLES = """\
  stacker push app:1.0 registry.example/team/app:1.0
  stacker push --compression zstd --level 19 app:1.0 oci:./layout:1.0
  stacker push 6c3c624b58db oci-archive:app.tar
  stacker push app:1.0 docker-archive:- | podman load
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add = parser.add_argument
    add_image(parser)
    add("destination", metavar="DEST", help="where to push the image")
    add_packing(parser)
    add_jobs(parser, "blobs to transfer")
    add_timeout(add_registries(parser))


def add_packing(parser: ArgumentParser) -> None:
    """Add the options for compressing layers again."""
    parser.add_argument(
        "--compression",
        choices=("gzip", "zstd"),
        default="gzip",
        help="compression of layers whose original blob is missing (default: %(default)s)",
    )
    parser.add_argument(
        "--level",
        metavar="N",
        type=parse_count,
        help="compression level: 1 to 9 for gzip (default: 6), 1 to 22 for zstd (default: 3)",
    )


def copied_document(copied: Copied) -> dict[str, object]:
    """Return the part of a JSON document that push, copy and index push share."""
    return {
        "digest": str(copied.root.digest),
        "media_type": copied.root.media_type,
        "size": copied.root.size,
        "documents": copied.documents,
        "blobs": {transfer.value: count for transfer, count in copied.transfers.items()},
        "left": [
            {"digest": str(layer.digest), "urls": list(layer.urls)} for layer in copied.foreign
        ],
    }


def print_digest(copied: Copied, destination: str, session: Session) -> None:
    """Print the digest of the manifest or index; as a message if stdout has an archive."""
    if is_archive_on(destination, STDOUT):
        session.detail(f"digest {copied.root.digest}")
    else:
        print_line(str(copied.root.digest))


def warn_foreign(copied: Copied, session: Session) -> None:
    """Print a warning for each foreign layer, which is not sent."""
    for layer in copied.foreign:
        urls = ", ".join(map(quoted, layer.urls))
        session.say(f"warning: foreign layer not sent: {layer.digest}: it stays at {urls}")


def run(args: Namespace, session: Session) -> None:
    """Push the image and print the digest of its manifest."""
    with time_limit(args.timeout, f"push {args.image}"):
        pushed = _push(args, session)
    warn_foreign(pushed.copied, session)
    if not pushed.original:
        session.detail(f"compressed {pushed.packed} layers again, so the manifest has a new digest")
    if session.json:
        print_event("push", item=_document(pushed, args.destination))
    else:
        print_digest(pushed.copied, args.destination, session)


def _push(args: Namespace, session: Session) -> Pushed:
    from stacker.api.options import complete_destination
    from stacker.cli.progress import report_progress

    args.destination = complete_destination(args.destination)
    store = session.open(args)
    with report_progress(session) as emit:
        return store.push(
            args.image,
            args.destination,
            compression=args.compression,
            level=args.level,
            umask=session.umask,
            stdout=archive_stdout(args.destination, json=session.json),
            jobs=args.jobs,
            on_event=emit,
        )


def _document(pushed: Pushed, destination: str) -> dict[str, object]:
    return {
        "image_id": str(pushed.image_id),
        "destination": destination,
        "original": pushed.original,
        "packed": pushed.packed,
        **copied_document(pushed.copied),
    }
