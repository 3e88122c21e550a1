"""The argparse side: global options, the list of verbs, one verb's own parser.

In come words, out go a verb and its arguments.  The words are read in two steps, since a parser
for every verb would mean importing every verb.  Whatever is wrong is a `UsageError`.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, NoReturn

import stacker
from stacker.cli.verbs import SUMMARIES, load
from stacker.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stacker.cli.verbs import Verb

_DESCRIPTION = """\
Take a container image to a root filesystem that a process can run in: each layer is verified
and unpacked into a directory of its own, and those are stacked into one tree.
"""
_STORE = "$STACKER_STORE, else /var/lib/stacker as root, ~/.local/share/stacker otherwise"
EXAMPLES = """\
  stacker pull oci-archive:app.tar           bring an image into the store
  stacker mount app:1.0 /mnt                 show its root filesystem, read-only
  chroot /mnt /bin/sh                        run something in it
  stacker umount /mnt                        take it away again

  stacker pull docker-archive:saved.tar.gz   what `docker save` wrote
  stacker mount --rw app:1.0 /mnt            with writes, which go with the mount
  stacker unpack app:1.0 ./rootfs            a plain directory instead of a mount
  stacker push app:1.0 docker://registry.example/app:1.0
  stacker images --json                      everything that is here, for a program
"""
ENVIRONMENT = (
    ("STACKER_STORE", "the store, unless --store names one"),
    ("XDG_DATA_HOME", "where a user's store lies (default: ~/.local/share)"),
    ("REGISTRY_AUTH_FILE", "credentials for registries, unless --authfile names them"),
    ("CONTAINERS_REGISTRIES_CONF", "what registries.conf is, unless --registries-conf names it"),
    ("DOCKER_CONFIG", "where docker's config.json lies (default: ~/.docker)"),
    ("XDG_RUNTIME_DIR", "where podman's containers/auth.json lies (default: /run)"),
    ("XDG_CONFIG_HOME", "where its other place is, containers/auth.json (default: ~/.config)"),
    ("HTTPS_PROXY, HTTP_PROXY", "proxies on the way to registries, also in lower case"),
    ("NO_PROXY", "hosts, domains and networks that are asked directly, or `*`"),
    ("SSL_CERT_FILE", "the authorities to believe in place of the system's, as OpenSSL reads it"),
    ("TMPDIR", "the directory for temporary files of `stacker copy` (default: /var/tmp)"),
    ("NO_COLOR", "when set, nothing is coloured"),
    ("TERM", "when `dumb`, there are no progress bars"),
)
_WIDTH = 12
WIDEST = 100


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Texts as they are written; as wide as the terminal, which argparse asks shutil for."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=width())


class Parser(argparse.ArgumentParser):
    """A parser that raises, takes no abbreviations, and leaves texts as they are written."""

    def __init__(self, **options: object) -> None:
        options.setdefault("allow_abbrev", False)
        options.setdefault("add_help", False)
        options.setdefault("formatter_class", _Formatter)
        super().__init__(**options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print.

        :raises UsageError: always.
        """
        raise UsageError(message, hint=f"`{self.prog} --help` shows what it takes")


def checked(parse: Callable[[str], int]) -> Callable[[str], int]:
    """Let a function's ``ValueError`` be argparse's message."""

    def convert(text: str) -> int:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def parse(words: list[str]) -> tuple[Verb, argparse.Namespace]:
    """Read a command.

    :raises UsageError: it is none.
    """
    at = _verb_at(words)
    found = main_parser().parse_args(words[:at])
    if at == len(words):
        raise UsageError("no verb: say what to do", hint="`stacker --help` lists the verbs")
    name = words[at]
    if name not in SUMMARIES:
        raise UsageError(f"unknown verb: {name}", hint=_guess(name))
    verb = load(name)
    return verb, verb_parser(name, verb).parse_args(words[at + 1 :], found)


def _verb_at(words: list[str]) -> int:
    """Say which word is the verb: the first that is no option, nor an option's value."""
    is_value = False
    for number, word in enumerate(words):
        if not (is_value or word.startswith("-")):
            return number
        is_value = not is_value and word == "--store"
    return len(words)


def main_parser() -> Parser:
    """Return the parser of what stands before the verb."""
    parser = Parser(
        prog="stacker",
        usage="stacker [OPTION…] VERB [ARGUMENT…]",
        description=f"{_DESCRIPTION}\nverbs:\n{_verb_lines()}",
        epilog=f"examples:\n{EXAMPLES}\n`stacker VERB --help` has more about each.",
    )
    add_globals(parser)
    return parser


def verb_parser(name: str, verb: Verb) -> Parser:
    """Return the parser of what stands behind a verb."""
    parser = Parser(prog=f"stacker {name}")
    parser.description, parser.epilog = verb.DESCRIPTION, f"examples:\n{verb.EXAMPLES}"
    _fill(parser, verb)
    return parser


def whole_parser() -> Parser:
    """Return everything in one parser, for what is generated from it; imports every verb."""
    parser = main_parser()
    choices = parser.add_subparsers(metavar="VERB", dest="verb")
    for name, summary in SUMMARIES.items():
        _fill(choices.add_parser(name, help=summary, description=summary), load(name))
    return parser


def _fill(parser: argparse.ArgumentParser, verb: Verb) -> None:
    verb.configure(parser)
    add_globals(parser)


def add_globals(parser: argparse.ArgumentParser) -> None:
    """Add the options that may stand before and behind the verb, and behind its own verbs.

    None has a default, so that what was said before the verb is not forgotten behind it.
    """
    group = parser.add_argument_group("options of every verb")
    add = group.add_argument
    quiet = argparse.SUPPRESS
    add("--store", metavar="DIR", default=quiet, help=f"the store (default: {_STORE})")
    add(
        *("-q", "--quiet"),
        dest="verbosity",
        action="store_const",
        const=-1,
        default=quiet,
        help="say nothing but errors",
    )
    add(
        *("-v", "--verbose"),
        dest="verbosity",
        action="store_const",
        const=1,
        default=quiet,
        help="say more, on stderr",
    )
    add("--json", action="store_true", default=quiet, help="print one JSON document")
    add("--debug", action="store_true", default=quiet, help="show where an error arose")
    add("--version", action="version", version=f"stacker {stacker.__version__}")
    add("-h", "--help", action="help", help="show this and exit")


def _verb_lines() -> str:
    return "".join(f"  {name:<{_WIDTH}}{summary}\n" for name, summary in SUMMARIES.items())


def width() -> int:
    """Return how many columns help may take."""
    try:
        return min(os.get_terminal_size(sys.stdout.fileno()).columns, WIDEST)
    except (OSError, ValueError):
        return WIDEST


def _guess(name: str) -> str:
    from difflib import get_close_matches  # only for a mistake

    close = get_close_matches(name, SUMMARIES, n=1)
    return f"did you mean `{close[0]}`?" if close else "`stacker --help` lists the verbs"
