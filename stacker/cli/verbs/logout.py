"""``stacker logout``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stacker.cli.output import print_item
from stacker.cli.verbs.login import DEFAULT_HOST, host_named
from stacker.errors import NotFoundError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session

DESCRIPTION = """\
Log out of a registry: remove its credentials from the credential files of podman and docker, and
from the credential helpers that these files name.  With --authfile or $REGISTRY_AUTH_FILE, stacker
uses that file only.
"""
EXAMPLES = """\
  stacker logout registry.example
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "host", metavar="HOST[:PORT]", nargs="?", help=f"the registry {DEFAULT_HOST}"
    )
    parser.add_argument(
        "--authfile",
        metavar="FILE",
        help="file to remove the credentials from (default: $REGISTRY_AUTH_FILE, else the files of "
        "podman and docker)",
    )


def run(args: Namespace, session: Session) -> None:
    """Remove the credentials."""
    from stacker.registry.environment import auth_files
    from stacker.registry.login import remove_credentials

    host = host_named(args.host)
    files = [os.path.abspath(f) for f in auth_files(args.authfile, os.environ, os.geteuid())]
    changed = remove_credentials(files, host)
    if not changed:
        raise NotFoundError(
            f"not logged in: {host}: got no credentials in {', '.join(files)}",
            hint="name the credential file with --authfile",
        )
    if session.json:
        print_item("logout", {"host": host, "places": changed})
        return
    for name in changed:
        session.say(f"logged out of {host}; credentials removed from {name}")
