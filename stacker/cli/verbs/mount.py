"""``stacker mount``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stacker.cli.options import add_image
from stacker.cli.output import print_item, print_line
from stacker.mount.plan import MountRequest
from stacker.operations.mount import mount_image, plan_image

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session
    from stacker.fuse.options import FuseOptions
    from stacker.mount.drivers.protocol import Mounted
    from stacker.mount.record import MountRecord

DRIVERS = ("auto", "overlay", "fuse", "copy", "fuse-overlayfs")
ADAPTERS = ("kernel", "pyfuse3")
DESCRIPTION = """\
Show an image's merged root filesystem at TARGET, an existing directory outside the store.  It is
read-only unless --rw or --upper is given.  The last line on stdout is the driver taken:

  overlay   the kernel stacks the layers, at once; wants root, or `unshare --user --map-root-user
            --mount`.  A single layer is bound.
  fuse      a process in the background shows the same tree through /dev/fuse; wants root, or
            fusermount3.  Writes are kept as the kernel's overlay keeps them, so that either can
            go on with an --upper of the other.  `--fuse-adapter pyfuse3` answers by libfuse in
            place of the kernel's own protocol: slower, read-only, and it wants the extra `fuse`.
  copy      TARGET, which must be empty, is filled with a copy; wants no privilege, but time
            and space.

`auto` takes the first of these that can, and says on stderr why it is not `overlay`.  Only by its
name:

  fuse-overlayfs
            that program serves the tree, if it is installed; --rw, but no --upper.
"""
EXAMPLES = """\
  stacker mount app:1.0 /mnt
  stacker mount --rw 3f5a /mnt               an ID's first digits; writes go with the mount
  stacker mount --upper ./changes app /mnt   writes stay in ./changes
  stacker mount --print-plan app /mnt        for a runtime that mounts by itself
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add = parser.add_argument
    add_image(parser)
    add("target", metavar="TARGET", help="the directory to mount on")
    add("--driver", choices=DRIVERS, default="auto", help="how to mount (default: auto)")
    add(
        "--fuse-adapter", choices=ADAPTERS, help="what answers with --driver fuse (default: kernel)"
    )
    add(
        "--fuse-passthrough",
        action="store_true",
        help="with --driver fuse: the kernel reads files of 1 MiB and more by itself (root, Linux"
        " 6.9); opening any file then costs more.  Where nearly all is in such files it does so"
        " anyway",
    )
    add("--rw", action="store_true", help="take writes; they go with the unmount")
    add("--upper", metavar="DIR", help="take writes and keep them in DIR, which may be missing")
    add("--print-plan", action="store_true", help="print the plan as JSON and mount nothing")


def run(args: Namespace, session: Session) -> None:
    """Mount, or say how it would be done."""
    request = MountRequest(
        target=Path(args.target),
        driver=args.driver,
        read_only=not (args.rw or args.upper),
        upper=None if args.upper is None else Path(args.upper),
        fuse=_fuse_options(args),
    )
    if args.print_plan:
        _print_plan(args.image, request, session)
        return
    record, mounted = mount_image(session.store(), args.image, request)
    _explain(mounted, session)
    if session.json:
        print_item("mount", _document(record, mounted))
    else:
        print_line(mounted.driver)


def _fuse_options(args: Namespace) -> FuseOptions | None:
    if args.fuse_adapter is None and not args.fuse_passthrough:
        return None
    from stacker.fuse.options import FuseOptions  # most mounts need no FUSE

    return FuseOptions(adapter=args.fuse_adapter or "kernel", passthrough=args.fuse_passthrough)


def _print_plan(image: str, request: MountRequest, session: Session) -> None:
    plan, driver, reasons = plan_image(session.store(), image, request)
    print_item("plan", {"driver": driver, "reasons": list(reasons), "plan": plan.to_json(driver)})


def _explain(mounted: Mounted, session: Session) -> None:
    """Say why it was not the first choice, and what is to be known about the one taken."""
    if mounted.reasons:
        session.say(f"mounted by {mounted.driver}, since {'; '.join(mounted.reasons)}")
    if mounted.note is not None:
        tell = session.say if mounted.reasons else session.detail
        tell(f"{mounted.driver}: {mounted.note}")


def _document(record: MountRecord, mounted: Mounted) -> dict[str, object]:
    return {
        "id": record.id,
        "image_id": record.image,
        "target": str(record.target),
        "driver": mounted.driver,
        "fuse_adapter": record.fuse_adapter,
        "read_only": record.read_only,
        "upper": None if record.upper is None else str(record.upper),
        "note": mounted.note,
        "reasons": list(mounted.reasons),
    }
