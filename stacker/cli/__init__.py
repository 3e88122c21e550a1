"""The command line: words in, an exit code out.

This room alone prints, ends the process and reads the environment.  Each verb is a module of
`stacker.cli.verbs` and is imported when it is asked for, so that ``stacker mount`` pays for
mounting only.
"""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from stacker.cli.exit import ended

if TYPE_CHECKING:
    from collections.abc import Sequence


_OBJECTS_BETWEEN_COLLECTIONS = 50_000
"""Python's own 700 has it look for garbage dozens of times while modules are loaded."""


def command() -> NoReturn:
    """Run the command that this process is for, and end the process with its exit code.

    By then everything is undone that must be.  Python's own end, which takes every module apart,
    would last nearly as long as many a command.
    """
    code = main()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed, or nobody reads it: said already
            stream.flush()
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    :param argv: its words; those of the process when left out.
    :returns: the exit code (docs/reference/exit-codes.md).
    """
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    words = list(sys.argv[1:] if argv is None else argv)
    return ended(lambda: _run(words), debug="--debug" in words)


def _run(words: list[str]) -> int:
    from stacker.cli.options import parse
    from stacker.cli.session import Session

    verb, args = parse(words)
    verb.run(args, Session.of(args, os.environ))
    return 0
