"""``stacker snapshotter``: serve containerd as its snapshotter and differ."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.cli.options import add_jobs
from stacker.cli.output import print_item, print_line
from stacker.errors import UnsupportedError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session

ROOT = "/var/lib/containerd/io.containerd.snapshotter.v1.stacker"
ADDRESS = "/run/stacker/snapshotter.sock"
CONTENT = "/var/lib/containerd/io.containerd.content.v1.content"
DESCRIPTION = """\
Serve containerd as its snapshotter and differ, over a Unix socket, until SIGTERM.  The snapshots of
images and containers are below the directory of --root.  As a differ, the command unpacks the
layers that containerd has pulled into the store, where images, containers and other commands share
them.  The socket is open to its owner only.  The command needs root, and the extra `containerd` of
the package.
"""
EXAMPLES = """\
  stacker snapshotter
  stacker snapshotter --print-config 1.7
  stacker snapshotter --root /mnt/snapshots --address /run/stacker.sock
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "--root",
        metavar="DIR",
        default=ROOT,
        help="directory of the snapshots (default: %(default)s)",
    )
    parser.add_argument(
        "--address", metavar="SOCKET", default=ADDRESS, help="Unix socket (default: %(default)s)"
    )
    parser.add_argument(
        "--content",
        metavar="DIR",
        default=CONTENT,
        help="containerd's content store, which is only read (default: %(default)s)",
    )
    parser.add_argument(
        "--print-config",
        metavar="VERSION",
        help="print the part of config.toml for this release of containerd, such as 1.7, and exit",
    )
    add_jobs(parser, "layers to unpack")


def run(args: Namespace, session: Session) -> None:
    """Serve until SIGTERM, or print the configuration of containerd."""
    address = os.path.abspath(args.address)
    if args.print_config is not None:
        from stacker.containerd.configuration import configuration

        text = configuration(args.print_config, address)
        if session.json:
            print_item("containerd-config", {"config": text})
        else:
            print_line(text.rstrip("\n"))
        return
    try:
        from stacker.containerd.daemon import Settings, serve
    except ImportError as error:
        raise UnsupportedError(
            f"cannot serve containerd: got no Python module {error.name}",
            hint="install stacker with its extra, for example pip install '.[containerd]'",
        ) from error
    serve(
        Settings(
            store=session.root,
            root=Path(os.path.abspath(args.root)),
            address=Path(address),
            content=Path(os.path.abspath(args.content)),
            jobs=args.jobs,
            listening=_passed_socket(os.environ),
            notify=os.environ.pop("NOTIFY_SOCKET", None),
        )
    )


def _passed_socket(environ: os._Environ[str]) -> int | None:
    """Return the descriptor of the socket that systemd passed, if any (sd_listen_fds(3))."""
    is_mine = environ.pop("LISTEN_PID", "") == str(os.getpid())
    return 3 if int(environ.pop("LISTEN_FDS", "0")) and is_mine else None
