"""``stacker push``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stacker.cli.help import parse_count
from stacker.cli.options import add_image
from stacker.cli.output import print_event, print_line
from stacker.cli.registry_options import add_registries, registry_access
from stacker.image.document import quoted

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session
    from stacker.jobs.pack_layer import PackOptions
    from stacker.operations.copy import Copied
    from stacker.operations.push import Pushed

DESCRIPTION = """\
Send an image of the store away.  Its config is sent byte for byte, so the image ID stays what it
is.  A layer goes as the blob it came in where the store has that (`pull --keep-blobs`) or the
destination does; any other is put together again from what lies on disk, verified against its
diff_id, and compressed anew.  When all blobs are the original ones the manifest is, too, and
keeps its digest.  The last line on stdout is the manifest's digest.

DEST is one of
  docker://HOST[:PORT]/REPO[:TAG]   a registry
  oci:DIR[:NAME]                    an OCI image layout, made or added to
  oci-archive:FILE[:NAME]           the same in a new tar
A registry is sent nothing that it has.  What another of its repositories is known to have is
mounted from there; an upload that breaks off goes on where it was.  Of registries.conf, locations
and blocked registries count; a mirror is never pushed to, and the name is written in full.

A foreign layer, which its manifest says is to be had elsewhere, is not sent: it stays there, and a
warning says so.
"""
EXAMPLES = """\
  stacker push app:1.0 docker://registry.example/team/app:1.0
  stacker push --compression zstd --level 19 app:1.0 oci:./layout:1.0
  stacker push 6c3c624b58db oci-archive:app.tar
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add = parser.add_argument
    add_image(parser)
    add("destination", metavar="DEST", help="where it goes")
    add_packing(parser)
    add_jobs(parser)
    add_registries(parser)


def add_packing(parser: ArgumentParser) -> None:
    """Add the options that say how layers are compressed anew."""
    parser.add_argument(
        "--compression",
        choices=("gzip", "zstd"),
        default="gzip",
        help="of layers whose original blob is not at hand (default: %(default)s)",
    )
    parser.add_argument(
        "--level",
        metavar="N",
        type=parse_count,
        help="of the compression: 1 to 9 for gzip (default: 6), 1 to 22 for zstd (default: 3)",
    )


def add_jobs(parser: ArgumentParser) -> None:
    """Add the option that says how much happens at once."""
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=parse_count,
        help="blobs on their way at the same time (default: the usable processors)",
    )


def packing_of(args: Namespace) -> PackOptions:
    """Return how layers are compressed, by ``--compression`` and ``--level``.

    :raises UsageError: there is no such level.
    """
    from stacker.jobs.pack_layer import PackOptions
    from stacker.stream.compression import compression_level

    return PackOptions(args.compression, compression_level(args.compression, args.level))


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


def warn_foreign(copied: Copied, session: Session) -> None:
    """Print a warning for each foreign layer, which is not sent."""
    for layer in copied.foreign:
        urls = ", ".join(map(quoted, layer.urls))
        session.say(f"warning: foreign layer not sent: {layer.digest}: it stays at {urls}")


def run(args: Namespace, session: Session) -> None:
    """Push, and print the manifest's digest."""
    pushed = _push(args, session)
    warn_foreign(pushed.copied, session)
    if not pushed.original:
        session.detail(f"{pushed.packed} layers were compressed anew, so the manifest is new")
    if session.json:
        print_event("push", item=_document(pushed, args.destination))
    else:
        print_line(str(pushed.copied.root.digest))


def _push(args: Namespace, session: Session) -> Pushed:
    from stacker.cli.progress import report_progress
    from stacker.destination.open import open_destination
    from stacker.linux.process import usable_processors
    from stacker.operations.push import push_image

    packing = packing_of(args)
    access = registry_access(args, os.environ, args.destination)
    store = session.store()
    store.images.find(args.image)  # before anything is written anywhere
    with (
        open_destination(args.destination, access=access) as destination,
        report_progress(session) as emit,
    ):
        return push_image(
            store,
            args.image,
            destination,
            packing=packing,
            jobs=args.jobs or usable_processors(),
            emit=emit,
        )


def _document(pushed: Pushed, destination: str) -> dict[str, object]:
    return {
        "image_id": str(pushed.image_id),
        "destination": destination,
        "original": pushed.original,
        "packed": pushed.packed,
        **copied_document(pushed.copied),
    }
