"""``stacker pull``."""

from __future__ import annotations

from argparse import BooleanOptionalAction
from typing import TYPE_CHECKING

from stacker.cli.exit import flush_later, time_limit
from stacker.cli.help import parse_count
from stacker.cli.options import add_archive_ratio, add_jobs, add_limits
from stacker.cli.output import moved_document, print_event, print_line, size
from stacker.cli.registry_options import add_registries, add_timeout
from stacker.errors import UnsupportedError
from stacker.layer.paths import FORMS

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _ArgumentGroup

    from stacker import ImagePulled, Shared, Store
    from stacker.cli.session import Session
    from stacker.layer.paths import Form

DESCRIPTION = """\
Pull an image into the store.  stacker verifies each layer's blob against its digest, and the tar
in the blob against its diff_id.  It unpacks each layer once; images share the layers that they have
in common.  It does not download layers that are already in the store.  The last line on stdout is
the image ID.

SOURCE is one of
  oci:DIR[:TAG]              an OCI image layout
  oci-archive:FILE[:TAG]     an OCI image layout in a tar archive
  docker-archive:FILE[:NAME] an archive from `docker save`
  [docker://][HOST[:PORT]/]REPO[:TAG][@DIGEST]   a registry
Archives may be compressed with gzip or zstd.  With - as FILE, stacker reads the archive from stdin;
`repair` cannot read it again.  Without HOST, the registry is docker.io, unless
containers-registries.conf(5) has another one; `app` is `docker.io/library/app:latest`.

stacker unpacks a layer from a registry while it downloads the blob.  If a download is interrupted,
the next pull resumes it.  Credentials come from the files and credential helpers of podman, skopeo
and docker.  containers-registries.conf(5) configures mirrors, locations, blocked registries and
short names such as `app`; containers-certs.d(5) configures certificates.
"""
EXAMPLES = """\
  stacker pull alpine
  stacker pull registry.example/team/app:1.0
  stacker pull oci:./layout:1.0 --name app:1.0
  stacker pull docker-archive:saved.tar.gz:app:1.0
  stacker pull --platform linux/arm64 oci-archive:app.tar
  podman save app:1.0 | stacker pull docker-archive:-
  stacker mount "$(stacker pull oci:./layout)" /mnt
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    _add_image(parser)
    add_jobs(parser, "layers to unpack")
    add = parser.add_argument
    add(
        "--keep-blobs",
        action="store_true",
        help="keep the blobs of layers too, for `push` and `repair`",
    )
    add(
        "--form",
        choices=("auto", *FORMS),
        help="store layers as directories with their files (tree), or as their tars with an index "
        "that the kernel mounts (erofs); auto chooses erofs if the kernel can mount it on the "
        "store's filesystem, or FUSE can serve it; `stacker info` says why (default: the form that "
        "most of the image's layers have in the store; tree if the store has none of them)",
    )
    add(
        "--dedup",
        action="store_true",
        help="let files of the new layers share storage with equal files in the store, by reflinks "
        "(XFS and btrfs), and print how much they share",
    )
    add(
        "--sync",
        action=BooleanOptionalAction,
        help="--sync flushes the layers to disk before the command ends; --no-sync does not flush "
        "them (default: flush them in the background after the command ends)",
    )
    registries = add_registries(parser)
    add_timeout(registries)
    _add_transfer(registries)
    add_archive_ratio(parser)
    add_limits(parser)


def _add_image(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("source", metavar="SOURCE", help="the image to pull")
    add(
        "--name",
        metavar="NAME",
        action="append",
        help="name the image NAME in the store, instead of its names in the source; repeatable",
    )
    add(
        "--platform",
        metavar="[OS/]ARCH[/VARIANT][:OSVERSION]",
        help="pull the image for this platform only (default: the best match for this machine)",
    )


def _add_transfer(group: _ArgumentGroup) -> None:
    """Add the options for downloads from a registry."""
    add = group.add_argument
    add(
        "--no-resume",
        dest="resume",
        action="store_false",
        help="neither resume nor keep an interrupted download (default: keep it, so that the next "
        "pull resumes it)",
    )
    add(
        "--ranges",
        metavar="N",
        type=parse_count,
        default=1,
        help="parallel range requests for each layer, 4 MiB each (default: %(default)s; layers "
        "already download in parallel)",
    )
    add(
        "--allow-foreign",
        action="store_true",
        help="download foreign layers that the registry lacks from the URLs in the manifest, "
        "without credentials",
    )


def run(args: Namespace, session: Session) -> None:
    """Pull the image and print its ID."""
    pulled, shared = pull_source(args, session)
    if session.json:
        print_event("pull", item=_document(pulled, shared))
    else:
        print_line(str(pulled.image_id))


def pull_source(args: Namespace, session: Session) -> tuple[ImagePulled, Shared | None]:
    """Pull the image that the arguments of this verb name, and start the flush.

    :returns: the image, and with ``--dedup`` the storage that it shares.
    """
    from stacker.api.options import complete_source

    args.source = complete_source(args.source)
    store = session.open(args)
    with time_limit(args.timeout, f"pull {args.source}"):
        pulled = _pull(args, store, session)
        shared = _share(session, store, pulled) if args.dedup else None
    for warning in pulled.warnings:
        session.say(f"warning: {warning}")
    session.say_moved(pulled.moved, pulled.image_id)
    if args.sync is None:
        flush_later(session.root)
    return pulled, shared


def _pull(args: Namespace, store: Store, session: Session) -> ImagePulled:
    from stacker.cli.progress import keeping, report_progress
    from stacker.events import ImagePulled

    form = _form(args, store, session)  # its child processes start before threads of progress bars
    found: list[ImagePulled] = []
    with report_progress(session) as emit:
        store.pull(
            args.source,
            names=args.name,
            platform=args.platform,
            form=form,
            keep_blobs=args.keep_blobs,
            resume=args.resume,
            sync=args.sync is True,
            jobs=args.jobs,
            on_event=keeping(ImagePulled, found, emit),
        )
    return found[0]


def _form(args: Namespace, store: Store, session: Session) -> Form | None:
    """Return the form for new layers; ``None`` lets the layers of the store decide."""
    if args.form != "auto":
        form: Form | None = args.form
        return form
    chosen = store.automatic_form()
    session.detail(f"form {chosen.form}: {chosen.reason}")
    return chosen.form


def _share(session: Session, store: Store, pulled: ImagePulled) -> Shared:
    """Share storage after the image is complete; a failure is a warning."""
    from stacker import Shared

    try:
        shared = store.share_storage(pulled.layers)
    except UnsupportedError as error:
        session.say(f"warning: cannot share storage: {session.root}: {error.message}")
        return Shared()
    except OSError as error:
        session.say(f"warning: cannot share all storage: {session.root}: {error.strerror}")
        return Shared()
    session.say(f"{shared.files} files share {size(shared.bytes)} with equal files")
    return shared


def _document(pulled: ImagePulled, shared: Shared | None) -> dict[str, object]:
    return {
        "image_id": str(pulled.image_id),
        "manifest": str(pulled.manifest.digest),
        "unpacked": pulled.unpacked,
        "present": pulled.present,
        "warnings": list(pulled.warnings),
        "moved": moved_document(pulled.moved),
        "shared": None if shared is None else {"files": shared.files, "bytes": shared.bytes},
    }
