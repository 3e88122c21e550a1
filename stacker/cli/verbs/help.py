"""``stacker help``."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

from stacker.cli.output import print_line
from stacker.errors import UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session

DESCRIPTION = """\
Show the man page of stacker or of a verb.  If stdout is not a terminal, or `man` is not installed,
print the text of `stacker VERB --help` instead.
"""
EXAMPLES = """\
  stacker help
  stacker help mount
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("topic", metavar="VERB", nargs="?", help="verb (default: stacker itself)")


def run(args: Namespace, session: Session) -> None:
    """Show the page."""
    del session
    from stacker.cli.options import main_parser, verb_parser
    from stacker.cli.shared_data import man_page
    from stacker.cli.verbs import SUMMARIES, load

    if args.topic is not None and args.topic not in SUMMARIES:
        raise UsageError(f"unknown verb: {args.topic}", hint="`stacker --help` lists the verbs")
    if sys.stdout.isatty() and (program := shutil.which("man")):
        page = man_page("stacker" if args.topic is None else f"stacker-{args.topic}")
        os.execv(program, ["man", str(page)])  # noqa: S606 - man is the program that shows it
    parser = main_parser() if args.topic is None else verb_parser(args.topic, load(args.topic))
    print_line(parser.format_help().rstrip("\n"))
