"""``stacker login``."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from stacker.cli.output import print_item
from stacker.cli.registry_options import add_registries, anonymous_access
from stacker.errors import UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session

DESCRIPTION = """\
Log in to a registry: check the credentials with the registry, and save them for pull, push and the
other verbs.  podman, skopeo and docker use the same credential files.  stacker updates the first of
them that has an entry or a credential helper for the registry.  If no file has either, stacker
updates ${XDG_RUNTIME_DIR}/containers/auth.json, or /run/containers/UID/auth.json if XDG_RUNTIME_DIR
is not set.  If the updated file names a credential helper, the helper stores the password.  For
docker.io, Docker's file and helpers have the key https://index.docker.io/v1/.

stacker reads the password from the terminal, or from stdin with --password-stdin.  There is no
option for the password, because other users can read the arguments of a process.
"""
EXAMPLES = """\
  stacker login registry.example
  pass show registry | stacker login --username me --password-stdin registry.example:5000
  stacker login --authfile ./auth.json registry.example
"""
DEFAULT_HOST = "(default: docker.io)"


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add = parser.add_argument
    add("host", metavar="HOST[:PORT]", nargs="?", help=f"the registry {DEFAULT_HOST}")
    add(
        "-u",
        "--username",
        metavar="NAME",
        help="user name for the registry (default: read from the terminal)",
    )
    add("--password-stdin", action="store_true", help="read the password from stdin")
    add_registries(
        parser,
        "file to save the credentials in (default: $REGISTRY_AUTH_FILE, else the files of podman "
        "and docker)",
    )


def run(args: Namespace, session: Session) -> None:
    """Read, check and save the credentials."""
    from stacker.registry.credentials import Credentials
    from stacker.registry.environment import auth_files
    from stacker.registry.login import check_credentials, save_credentials

    host = host_named(args.host)
    user, password = _user(args), _password(args)
    if not check_credentials(host, Credentials(user, password), anonymous_access(args, os.environ)):
        session.say(f"warning: {host} requires no credentials, so they were not checked")
    files = [os.path.abspath(f) for f in auth_files(args.authfile, os.environ, os.geteuid())]
    saved_in = save_credentials(files, host, user, password)
    if session.json:
        print_item("login", {"host": host, "place": saved_in})
    else:
        session.say(f"logged in to {host}; credentials saved in {saved_in}")


def host_named(text: str | None) -> str:
    """Return the registry that a user names; the default registry for ``None``.

    :raises UsageError: the name is malformed.
    """
    from stacker.image.reference import DEFAULT_REGISTRY, Reference

    if text is None:
        return DEFAULT_REGISTRY
    with suppress(UsageError):
        reference = Reference.parse(f"{text}/any/image")
        if reference.repository == "any/image":  # otherwise the text is no host
            return reference.host
    raise UsageError(
        f"malformed registry: got {text!r}, want HOST[:PORT]",
        hint="for example registry.example or localhost:5000",
    )


def _user(args: Namespace) -> str:
    if args.username:
        return str(args.username)
    if args.password_stdin or not sys.stdin.isatty():
        raise UsageError("no user name: stdin is not a terminal", hint="use --username")
    print("User name: ", end="", file=sys.stderr, flush=True)
    if user := sys.stdin.readline().strip():
        return user
    raise UsageError("no user name: got an empty line, want a name", hint="use --username")


def _password(args: Namespace) -> str:
    if args.password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    elif sys.stdin.isatty():
        from getpass import getpass

        password = getpass("Password: ")
    else:
        raise UsageError("no password: stdin is not a terminal", hint="use --password-stdin")
    if not password:
        raise UsageError("no password: got an empty line, want a password")
    return password
