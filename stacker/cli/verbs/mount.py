"""``stacker mount``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stacker.cli.options import add_image
from stacker.cli.output import print_item, print_line
from stacker.cli.pulling import add_pull, pulled, restorer
from stacker.mount.drivers.protocol import Mounted
from stacker.mount.plan import DRIVERS, FLAGS, MountRequest
from stacker.operations.mount import find_mount, mount_flags, mount_image, plan_image

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session
    from stacker.fuse.options import FuseOptions
    from stacker.mount.record import MountRecord
    from stacker.operations.mount import Check

ADAPTERS = ("kernel", "pyfuse3")
DESCRIPTION = """\
Mount an image's root filesystem at TARGET, an existing directory outside the store.  The mount is
read-only without --rw or --upper.  The last line on stdout names the driver that made the mount:

  overlay   The kernel's overlayfs stacks the layers, without a copy.  A read-only mount of a single
            layer without whiteouts is a bind mount.  Needs root, or `unshare --user
            --map-root-user --mount`.
  fuse      A background process serves the tree through /dev/fuse.  Needs root or fusermount3.
            The kernel's overlayfs handles the writes if the kernel permits an overlay; otherwise
            the background process handles them.  A later overlay mount can use the same --upper.
            `--fuse-adapter pyfuse3` uses libfuse instead of the built-in implementation of FUSE.
            Such a mount is slower and read-only, and needs `pip install 'stacker-rootfs[fuse]'`.
  copy      stacker copies the tree to TARGET, which must be empty.  Needs no privilege, but takes
            time and disk space.

`auto` uses the first of these drivers that succeeds.  If that driver is not `overlay`, stacker
prints the reason to stderr.  `auto` does not try fuse-overlayfs; select it with --driver:

  fuse-overlayfs
            The program fuse-overlayfs serves the tree, if it is installed.  It supports --rw, but
            not --upper.

--verify verifies the image as `stacker verify` does.  If the image is damaged, stacker prints the
differences, mounts nothing, and exits with 5.
"""
EXAMPLES = """\
  stacker mount app:1.0 /mnt
  stacker mount --rw 3f5a /mnt               name the image by an ID prefix
  stacker mount alpine /mnt                  pull the image if the store lacks it
  stacker mount --upper ./changes app /mnt   keep writes in ./changes
  stacker mount --verify full app /mnt       mount only if every file is unchanged
  stacker mount --print-plan app /mnt        print the plan for another runtime
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add = parser.add_argument
    add_image(parser)
    add_pull(parser)
    add("target", metavar="TARGET", help="directory to mount on")
    add(
        "--driver",
        choices=DRIVERS,
        default="auto",
        help="mount driver (default: auto)",
    )
    _add_fuse(parser)
    add("--rw", action="store_true", help="mount read-write; discard writes at unmount")
    add(
        "--upper",
        metavar="DIR",
        help="mount read-write and keep writes in DIR; create DIR if it is missing",
    )
    add(
        "--nosuid",
        action="store_true",
        help="ignore set-user-ID bits, set-group-ID bits and file capabilities",
    )
    add("--nodev", action="store_true", help="do not interpret device files")
    add("--noexec", action="store_true", help="do not permit execution of programs")
    add(
        "--verify",
        choices=("fast", "full"),
        help="verify the image first, and do not mount a damaged one; `fast` compares attributes"
        " only, `full` reads all file contents, too (default: do not verify)",
    )
    add(
        "--idempotent",
        action="store_true",
        help="succeed if TARGET is a mount of the image already, with the same --rw or --upper",
    )
    add("--print-plan", action="store_true", help="print the mount plan as JSON, and mount nothing")


def _add_fuse(parser: ArgumentParser) -> None:
    """Add the options of the driver `fuse`."""
    add = parser.add_argument
    add(
        "--fuse-adapter",
        choices=ADAPTERS,
        help="FUSE implementation; requires --driver fuse (default: kernel)",
    )
    add(
        "--fuse-passthrough",
        action="store_true",
        help="let the kernel read files of 1 MiB and more without the background process; every"
        " open(2) becomes slower; requires --driver fuse and a read-only mount; without root or"
        " Linux 6.9, stacker mounts without it (default: only for images with at least 1 MiB per"
        " entry on average)",
    )
    add(
        "--fuse-writer",
        choices=("overlay", "server"),
        help="what handles writes: the kernel's overlayfs above a read-only FUSE mount, or the"
        " background process; requires --driver fuse (default: overlay, or server where the kernel"
        " refuses an overlay)",
    )


def run(args: Namespace, session: Session) -> None:
    """Mount, or print the plan."""
    request = MountRequest(
        target=Path(args.target),
        driver=args.driver,
        read_only=not (args.rw or args.upper),
        upper=None if args.upper is None else Path(args.upper),
        fuse=_fuse_options(args),
        flags=mount_flags([name for name in FLAGS if getattr(args, name)]),
    )
    store, check = session.store(), _check(args, session)  # which names the image as the user did
    args.image = pulled(args.image, args.pull, store.images.find, session)
    if args.print_plan:
        _print_plan(args, request, session, check)
        return
    if args.idempotent and (mount := find_mount(store, args.image, request)) is not None:
        _report(mount, Mounted(mount.driver), session)
        return
    record, mounted = mount_image(
        store,
        args.image,
        request,
        restore=restorer(session),
        check=check,
    )
    _explain(mounted, session)
    _report(record, mounted, session)


def _report(record: MountRecord, mounted: Mounted, session: Session) -> None:
    if session.json:
        print_item("mount", _document(record, mounted))
    else:
        print_line(mounted.driver)


def _fuse_options(args: Namespace) -> FuseOptions | None:
    if args.fuse_adapter is args.fuse_writer is None and not args.fuse_passthrough:
        return None
    from stacker.fuse.options import FuseOptions  # most mounts need no FUSE

    return FuseOptions(
        adapter=args.fuse_adapter or "kernel",
        passthrough=args.fuse_passthrough,
        writer=args.fuse_writer,
    )


def _check(args: Namespace, session: Session) -> Check | None:
    """Return the check that ``--verify`` requests before the mount, or None."""
    if args.verify is None:
        return None
    from functools import partial

    from stacker.cli.verbs.verify import require_sound  # most mounts verify nothing

    return partial(require_sound, name=args.image, contents=args.verify == "full", session=session)


def _print_plan(
    args: Namespace, request: MountRequest, session: Session, check: Check | None
) -> None:
    plan, driver, reasons = plan_image(
        session.store(),
        args.image,
        request,
        restore=restorer(session),
        check=check,
    )
    print_item("plan", {"driver": driver, "reasons": list(reasons), "plan": plan.to_json(driver)})


def _explain(mounted: Mounted, session: Session) -> None:
    """Print why `auto` rejected other drivers, and the note of the driver that mounted."""
    if mounted.reasons:
        session.say(f"mounted by {mounted.driver}, because {'; '.join(mounted.reasons)}")
    if mounted.note is not None:
        write = session.say if mounted.reasons else session.detail
        write(f"{mounted.driver}: {mounted.note}")


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
