"""``stacker login``."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from stacker.cli.output import print_item
from stacker.cli.registry_options import add_registries, anonymous_access
from stacker.errors import UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session

DESCRIPTION = """\
Keep credentials for a registry where pull, push and the other verbs find them, and podman, skopeo
and docker, too: in the first of their files that knows the registry or has a credential helper
for it, else in ${XDG_RUNTIME_DIR}/containers/auth.json.  The registry is asked first whether it
takes them.  The password is asked for on the terminal, or read from stdin; it is never an
argument, since any user of the machine can read those.
"""
EXAMPLES = """\
  stacker login registry.example
  pass show registry | stacker login --username me --password-stdin registry.example:5000
  stacker login --authfile ./auth.json registry.example
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add = parser.add_argument
    add("host", metavar="HOST[:PORT]", help="the registry")
    add("-u", "--username", metavar="NAME", help="who you are there (default: it is asked for)")
    add("--password-stdin", action="store_true", help="read the password from stdin")
    add_registries(
        parser,
        "the file to keep them in (default: $REGISTRY_AUTH_FILE, else those of podman and docker)",
    )


def run(args: Namespace, session: Session) -> None:
    """Ask, check, keep."""
    from stacker.cli.registry_options import auth_files
    from stacker.registry.credentials import Credentials
    from stacker.registry.login import check_credentials, save_credentials

    host = host_named(args.host)
    user, password = _user(args), _password(args)
    if not check_credentials(host, Credentials(user, password), anonymous_access(args, os.environ)):
        session.say(f"warning: {host} wants no credentials, so nobody checked them")
    files = [os.path.abspath(f) for f in auth_files(args.authfile, os.environ, os.geteuid())]
    place = save_credentials(files, host, user, password)
    if session.json:
        print_item("login", {"host": host, "place": place})
    else:
        session.say(f"logged in to {host}; kept in {place}")


def host_named(text: str) -> str:
    """Return the registry that a person means.

    :raises UsageError: it is none.
    """
    from stacker.image.reference import Reference

    if "/" in text:
        raise UsageError(f"malformed registry: got {text!r}, want HOST[:PORT] and nothing else")
    return Reference.parse(f"{text}/any").host


def _user(args: Namespace) -> str:
    if args.username:
        return str(args.username)
    if args.password_stdin or not sys.stdin.isatty():
        raise UsageError("no user name", hint="say it with --username")
    print("User name: ", end="", file=sys.stderr, flush=True)
    if user := sys.stdin.readline().strip():
        return user
    raise UsageError("no user name: got an empty line")


def _password(args: Namespace) -> str:
    if args.password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    elif sys.stdin.isatty():
        from getpass import getpass

        password = getpass("Password: ")
    else:
        raise UsageError(
            "no password: there is no terminal to ask for it on", hint="say --password-stdin"
        )
    if not password:
        raise UsageError("no password: got an empty line")
    return password
