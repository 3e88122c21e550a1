"""``stacker bundle``."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.cli.container_options import add_command, add_container, overrides_of, settings_of
from stacker.cli.output import print_item, print_line
from stacker.cli.pulling import add_pull, pulled, restorer
from stacker.errors import UsageError
from stacker.mount.plan import DRIVERS
from stacker.operations.bundle import BundleRequest, remove_bundle, write_bundle

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session
    from stacker.operations.bundle import Bundle

RUNTIMES = ("oci", "systemd-nspawn")
DESCRIPTION = """\
Write an OCI runtime bundle, the directory that runc, crun and `systemd-nspawn --oci-bundle` run.
stacker mounts the root filesystem at DIR/rootfs, and writes DIR/config.json: the process of the
image's configuration, changed by options and CMD, with the default capabilities and the seccomp
profile of podman.  Set-user-ID programs have no effect without --allow-new-privileges.

The mount is writable, since a runtime creates missing mount points such as /proc in it.  stacker
discards the writes when the bundle is removed; --upper keeps them.  --read-only refuses writes of
the process.  The last line on stdout names the driver that made the mount.

DIR must be missing or empty.  If stacker is killed before the bundle is complete, DIR has no
config.json, and the next `stacker bundle` clears it.

With --no-mount, the runtime mounts the root filesystem.  The store keeps the layers and the writes
for it until the bundle is removed; `stacker mounts` lists it with the driver `runtime`.

`stacker bundle rm DIR` unmounts the root filesystem, and removes the bundle.  If an image is
named `rm`, write `rm:latest`.

stacker refuses an image that is unsafe for a runtime: /proc, /dev or /sys is a symlink, the working
directory leads into one of them, or /etc/passwd is not a regular file.
"""
EXAMPLES = """\
  stacker bundle app:1.0 ./bundle
  runc run --bundle ./bundle app
  stacker bundle rm ./bundle

  stacker bundle -e LANG=C -u 1000:1000 app:1.0 ./bundle /bin/sh -c 'id; env'
  stacker bundle --read-only --tmpfs /tmp -v ./data:/data:ro app:1.0 ./bundle
  stacker bundle --upper ./changes app:1.0 ./bundle     keep writes in ./changes
  stacker bundle --no-mount app:1.0 ./bundle
  stacker bundle --runtime systemd-nspawn app:1.0 ./bundle
  systemd-nspawn --oci-bundle=./bundle
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add = parser.add_argument
    add(
        "image",
        metavar="IMAGE",
        help="image ID, unique prefix of an image ID, name, or SOURCE of the pull; `rm` removes the"
        " bundle DIR",
    )
    add("directory", metavar="DIR", help="directory of the bundle")
    add_command(parser)
    add_pull(parser)
    add("--driver", choices=DRIVERS, default="auto", help="mount driver (default: auto)")
    add(
        "--no-mount",
        action="store_true",
        help="mount nothing, and let the runtime make an overlay mount that config.json describes;"
        " needs root, layers in the form `tree` and a runtime that mounts on /, such as runc",
    )
    add("--upper", metavar="DIR", help="keep writes in DIR; create DIR if it is missing")
    add(
        "--runtime",
        choices=RUNTIMES,
        default="oci",
        help="the runtime that will run the bundle; systemd-nspawn has a seccomp profile of its"
        " own, and does not accept the one of a bundle (default: oci)",
    )
    add_container(parser)


def run(args: Namespace, session: Session) -> None:
    """Write a bundle, or remove one."""
    if args.image == "rm":
        _remove(args, session)
        return
    request = BundleRequest(
        overrides=overrides_of(args, os.environ),
        settings=replace(settings_of(args), portable=args.runtime == "systemd-nspawn"),
        driver=_driver(args),
        upper=None if args.upper is None else Path(args.upper),
    )
    store = session.store()
    image = pulled(args.image, args.pull, store.images.find, session)
    bundle = write_bundle(store, image, Path(args.directory), request, restore=restorer(session))
    for label in bundle.omitted_labels:
        session.warn(f"omitted a label that a runtime would obey as an annotation: {label}")
    if bundle.mounted.reasons:
        reasons = "; ".join(bundle.mounted.reasons)
        session.say(f"mounted by {bundle.mounted.driver}, because {reasons}")
    if session.json:
        print_item("bundle", _document(bundle))
    else:
        print_line(bundle.mounted.driver)


def _driver(args: Namespace) -> str:
    if not args.no_mount:
        return str(args.driver)
    if args.driver != "auto":
        raise UsageError(f"options exclude each other: --no-mount, --driver {args.driver}")
    if args.runtime != "oci":
        raise UsageError(f"options exclude each other: --no-mount, --runtime {args.runtime}")
    return "runtime"


def _remove(args: Namespace, session: Session) -> None:
    if args.command:
        raise UsageError(f"too many arguments: {' '.join(args.command)}")
    path = remove_bundle(session.store(create=False), Path(args.directory))
    if path.exists():
        session.say(f"kept {path}: it has other files")
    if session.json:
        print_item("bundle-rm", {"path": str(path)})


def _document(bundle: Bundle) -> dict[str, object]:
    record = bundle.record
    return {
        "path": str(bundle.path),
        "mount_id": record.id,
        "image_id": record.image,
        "driver": record.driver,
        "upper": None if record.upper is None else str(record.upper),
        "reasons": list(bundle.mounted.reasons),
        "omitted_labels": list(bundle.omitted_labels),
    }
