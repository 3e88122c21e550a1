"""The command line: it takes words, runs one verb, and returns an exit code.

Only this package uses argparse and rich, prints, ends the process and reads the environment.
Each verb is a module of `stacker.cli.verbs`, and is imported when the command line names it, so
that ``stacker mount`` loads only what a mount needs.  `stacker.cli.options` parses the words,
`stacker.cli.session` holds the context of the command, `stacker.cli.output` prints results, and
`stacker.cli.exit` turns exceptions and signals into messages and exit codes.
"""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from stacker.cli.exit import exit_code_of, flush_now_in_background, open_standard_streams

if TYPE_CHECKING:
    from collections.abc import Sequence


_OBJECTS_BETWEEN_COLLECTIONS = 50_000
"""Garbage collection threshold: the default of 700 runs it many times during imports."""


def command() -> NoReturn:
    """Run the command of this process, and end the process with its exit code.

    The process ends by _exit(2), because the interpreter's shutdown takes nearly as long as a
    short command.  All cleanup has run by then.
    """
    open_standard_streams()
    code = main(umask=os.umask(0o077))  # other users read no file of the store, nor credentials
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed, or a broken pipe: already reported
            stream.flush()
    flush_now_in_background()
    os._exit(code)


def main(argv: Sequence[str] | None = None, *, umask: int = 0o022) -> int:
    """Run one command.

    :param argv: its words without the program's name; by default those of the process.
    :param umask: the caller's umask, for new files outside of the store.
    :returns: the exit code (docs/reference/exit-codes.md).
    """
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_code_of(
        lambda: _run(words, umask), debug="--debug" in words, as_json="--json" in words
    )


def _run(words: list[str], umask: int) -> int:
    from stacker.cli.options import parse
    from stacker.cli.session import Session
    from stacker.errors import StackerError, path_of
    from stacker.store.location import config_files

    verb, args = parse(words)  # first, so that --help works beside a malformed file
    config = None
    if files := config_files(os.environ):
        from stacker.api.config import read_config

        config = read_config(files)
        verb, args = parse(words, config)
    session = Session.of(args, os.environ, umask, config)
    try:
        code = verb.run(args, session)
    except StackerError as error:
        error.hint = session.ownership_hint(error) or session.with_store(error.hint or "") or None
        raise
    except PermissionError as error:
        if hint := session.ownership_hint(error):
            text = f"cannot access: {path_of(error) or session.root}: {error.strerror}"
            raise StackerError(text, hint=hint) from error
        raise
    return code or 0
