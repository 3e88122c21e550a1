"""``stacker export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stacker.cli.help import parse_count
from stacker.cli.options import add_image, add_jobs
from stacker.cli.output import Stdout, print_event, require_no_terminal
from stacker.errors import UsageError
from stacker.image.location import STDOUT

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session

DESCRIPTION = """\
Export the merged root filesystem of an image as one file, without unpacking it.  FILE is a tar, an
EROFS image or a squashfs image.  Without -o, the tar goes to stdout.  The same image always gives
the same tar and the same EROFS image, in both forms of its layers.  Names are sorted, whiteouts are
applied, and runs of zeros in files of 1 MiB and more are holes.

stacker first compares the attributes of all layers with their tars, and writes nothing if one
differs.  With `--verify full` it compares the contents of files, too.

With --layer, stacker writes the original tar of one layer, byte for byte; its SHA-256 is the
diff_id.  stacker verifies the diff_id while it writes.

An EROFS image contains the files uncompressed.  Another machine mounts it with `mount -t erofs -o
loop`.  Its blocks have 512 bytes, which needs Linux 6.4.

squashfs needs the program tar2sqfs (package squashfs-tools-ng) or sqfstar (squashfs-tools).  Both
store xattrs in the namespaces user, trusted and security only, so POSIX ACLs are not in the image.
Both round times down to seconds.  stacker prefers tar2sqfs: sqfstar does not store the xattrs of
the root directory, and its version 4.5 gives that directory the current time.
"""
EXAMPLES = """\
  stacker export app:1.0 -o app.tar
  stacker export app:1.0 | tar -xpf - -C ./rootfs
  stacker export --layer 1 app:1.0 -o base.tar
  stacker export --format erofs app:1.0 -o app.erofs
  stacker export --format squashfs app:1.0 -o app.squashfs
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add = parser.add_argument
    add_image(parser)
    add(
        "-o",
        "--output",
        metavar="FILE",
        default="-",
        help="write to FILE, and replace it if it exists; - is stdout (default: %(default)s)",
    )
    add(
        "--format",
        choices=("tar", "erofs", "squashfs"),
        default="tar",
        help="format of FILE; erofs and squashfs require -o (default: %(default)s)",
    )
    add("--layer", metavar="N", type=parse_count, help="export only layer N; 1 is the base layer")
    add(
        "--verify",
        choices=("fast", "full"),
        default="fast",
        help="`fast` compares the attributes of files before the export, `full` their contents, too"
        " (default: %(default)s)",
    )
    add_jobs(parser, "layers to verify")


def run(args: Namespace, session: Session) -> None:
    """Export the image; print a document with ``--json``."""
    from stacker.cli.progress import report_progress

    _require_valid(args, session)
    store = session.open()
    with report_progress(session) as emit:
        done = store.export(
            args.image,
            Stdout() if args.output in STDOUT else args.output,  # type: ignore[arg-type]
            kind=args.format,
            layer=args.layer,
            contents=args.verify == "full",
            umask=session.umask,
            jobs=args.jobs,
            on_event=emit,
        )
    if session.json:
        item = {
            "image_id": str(done.image_id),
            "path": str(Path(args.output).absolute()),
            "format": args.format,
            "digest": str(done.digest),
            "size": done.size,
            "entries": done.entries,
        }
        print_event("export", item=item)


def _require_valid(args: Namespace, session: Session) -> None:
    """Refuse options that contradict each other.

    :raises UsageError: they do.
    """
    if args.layer is not None and args.format != "tar":
        raise UsageError(
            f"--layer writes a tar: got --format {args.format}, want tar", hint="omit --format"
        )
    if args.output not in STDOUT:
        return
    if args.format != "tar" or session.json:
        option = "--json" if session.json else f"--format {args.format}"
        raise UsageError(f"{option} requires -o FILE", hint="name the file with -o")
    require_no_terminal("a tar", hint="name a file with -o, or redirect stdout")
