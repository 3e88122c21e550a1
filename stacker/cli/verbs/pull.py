"""``stacker pull``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stacker.cli.help import parse_count, parse_size
from stacker.cli.output import print_event, print_line
from stacker.cli.registry_options import add_registries, registry_access
from stacker.tar.limits import Limits

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _ArgumentGroup

    from stacker.cli.session import Session
    from stacker.image.platform import Platform
    from stacker.jobs.tasks import UnpackOptions
    from stacker.operations.pull import Pulled
    from stacker.registry.settings import RegistryAccess

DESCRIPTION = """\
Bring an image into the store.  Each layer is checked against the digest of its blob and against
its diff_id, unpacked once, and shared by all images that have it; what is already here is not
read again.  The last line on stdout is the image ID.

SOURCE is one of
  oci:DIR[:TAG]              an OCI image layout
  oci-archive:FILE[:TAG]     the same in a tar
  docker-archive:FILE[:NAME] what `docker save` writes
  docker://HOST[:PORT]/REPO[:TAG][@DIGEST]   a registry
Archives may be compressed with gzip or zstd.  A layer from a registry is unpacked while it
arrives; a transfer that breaks off goes on where it was.  Credentials are read from the files that
podman, skopeo and docker write, and asked of their credential helpers.  Mirrors, other locations,
blocked registries and short names (docker://app:1.0) are those of containers-registries.conf(5),
certificates for registries those of containers-certs.d(5).
"""
EXAMPLES = """\
  stacker pull oci:./layout:1.0
  stacker pull docker-archive:saved.tar.gz:app:1.0
  stacker pull docker://registry.example/team/app:1.0
  stacker pull --platform linux/arm64 oci-archive:app.tar
  stacker mount "$(stacker pull oci:./layout)" /mnt
"""
_LIMITS = Limits()


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add = parser.add_argument
    add("source", metavar="SOURCE", help="where the image is")
    add(
        "--platform",
        metavar="OS/ARCH[/VARIANT][:OSVERSION]",
        help="the image of that platform, and no other (default: what suits this machine)",
    )
    add(
        "--jobs",
        metavar="N",
        type=parse_count,
        help="layers unpacked at the same time (default: the usable processors)",
    )
    add("--keep-blobs", action="store_true", help="keep the layers' blobs in the store, too")
    add("--sync", action="store_true", help="have every layer on disk before it counts as here")
    _add_transfer(add_registries(parser))
    _add_limits(parser)


def _add_transfer(group: _ArgumentGroup) -> None:
    """Add what says how layers come from a registry."""
    add = group.add_argument
    add(
        "--no-resume",
        dest="resume",
        action="store_false",
        help="keep nothing of a layer whose transfer breaks off (default: a later pull goes on "
        "with it)",
    )
    add(
        "--ranges",
        metavar="N",
        type=parse_count,
        default=1,
        help="parts of one layer, of 4M each, that are fetched at once (default: 1, since layers "
        "are)",
    )
    add(
        "--allow-foreign",
        action="store_true",
        help="fetch layers that a registry lacks from where the image says, without credentials",
    )


def _add_limits(parser: ArgumentParser) -> None:
    group = parser.add_argument_group(
        "limits of a layer", "A SIZE is in bytes, or ends with K, M, G or T (1024-based)."
    )
    sizes = (
        ("--max-bytes", _LIMITS.unpacked_bytes, "unpacked (default: 1T)"),
        ("--max-pax-bytes", _LIMITS.pax_bytes, "one extended header (default: 1M)"),
        (
            "--max-names",
            _LIMITS.names,
            "names and attributes that must be remembered until a layer's end (default: 128M)",
        ),
    )
    for flag, default, text in sizes:
        group.add_argument(flag, metavar="SIZE", type=parse_size, default=default, help=text)
    counts = (
        ("--max-entries", _LIMITS.entries, "entries (default: %(default)s)"),
        ("--max-depth", _LIMITS.depth, "components of a path (default: %(default)s)"),
        (
            "--max-ratio",
            _LIMITS.ratio,
            "unpacked bytes per compressed byte, beyond the first 64M (default: %(default)s)",
        ),
    )
    for flag, default, text in counts:
        group.add_argument(flag, metavar="N", type=parse_count, default=default, help=text)


def run(args: Namespace, session: Session) -> None:
    """Pull, and print the image ID."""
    from stacker.image.platform import Platform

    wanted = Platform.parse(args.platform) if args.platform else None
    host = Platform.host(os.uname().machine)
    pulled = _pull(args, session, wanted or host, must_match=wanted is not None)
    for warning in pulled.warnings:
        session.say(f"warning: {warning}")
    if session.json:
        print_event("pull", item=_document(pulled))
    else:
        print_line(str(pulled.image_id))


def _access(args: Namespace) -> RegistryAccess | None:
    """Say how registries may be reached; a layout or an archive does without what that loads."""
    from stacker.image.location import is_in_registry

    if not is_in_registry(args.source):
        return None
    from dataclasses import replace

    access = registry_access(args, os.environ, args.source)
    return replace(access, allow_foreign=args.allow_foreign, parallel_ranges=args.ranges)


def _pull(args: Namespace, session: Session, platform: Platform, *, must_match: bool) -> Pulled:
    from stacker.cli.progress import report_progress
    from stacker.linux.process import usable_processors
    from stacker.operations.pull import pull_image
    from stacker.source.open import open_source

    store = session.store()
    with (
        store.staging.directory("spool") as room,
        open_source(args.source, spool=room, access=_access(args)) as source,
        report_progress(session) as emit,
    ):
        return pull_image(
            store,
            source,
            platform=platform,
            options=_options(args),
            jobs=args.jobs or usable_processors(),
            origin=args.source,
            emit=emit,
            must_match=must_match,
        )


def _options(args: Namespace) -> UnpackOptions:
    from stacker.jobs.tasks import UnpackOptions
    from stacker.layer.metadata import IdMap
    from stacker.layer.whiteout_format import WhiteoutFormat

    limits = Limits(
        unpacked_bytes=args.max_bytes,
        entries=args.max_entries,
        depth=args.max_depth,
        pax_bytes=args.max_pax_bytes,
        names=args.max_names,
        ratio=args.max_ratio,
    )
    return UnpackOptions(
        WhiteoutFormat.permitted(),
        IdMap.permitted(),
        limits,
        sync=args.sync,
        keep_blobs=args.keep_blobs,
        resume=args.resume,
    )


def _document(pulled: Pulled) -> dict[str, object]:
    return {
        "image_id": str(pulled.image_id),
        "manifest": str(pulled.manifest.digest),
        "unpacked": pulled.unpacked,
        "present": pulled.present,
        "warnings": list(pulled.warnings),
    }
