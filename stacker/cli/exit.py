"""How a command ends: what it says last, and its exit code.

In comes the command as a function, out goes a number.  Whatever it raised becomes one line on
stderr; a traceback is for who asks for it (``--debug``).  A signal becomes an exception, so that
everything that must be undone is undone.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

from stacker.cli.text import printable
from stacker.errors import StackerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_BY_SIGNAL = 128  # what a shell adds to the number of the signal that ended a command
_BUG = "this is a bug; --debug shows where it happened"
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


class SignalledError(BaseException):
    """A signal asks this process to end.

    Like ``KeyboardInterrupt`` it is no ``Exception``: nothing but clean-up may hold it up.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def ended(command: Callable[[], int], *, debug: bool = False) -> int:
    """Run a command to its end, whichever it is, and return its exit code."""
    with _signals_raise():
        try:
            code = _run(command)
            sys.stdout.flush()
        except BaseException as error:  # noqa: BLE001 - the one place where all of them end
            if debug:
                _print_traceback()
            return _explained(error)
    return code


def _run(command: Callable[[], int]) -> int:
    try:
        return command()
    except SystemExit as done:  # argparse, after --help and --version
        return done.code if isinstance(done.code, int) else 0


@contextmanager
def _signals_raise() -> Iterator[None]:
    def end(number: int, _: FrameType | None) -> NoReturn:
        # Whoever asks twice is as impatient as we are; kill -9 is for those who are more so.
        signal.signal(number, signal.SIG_IGN)
        raise SignalledError(number)

    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # not under nohup(1)
            with suppress(ValueError):  # not in the main thread: somebody else's program
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _explained(error: BaseException) -> int:
    """Say what went wrong, in one line and perhaps a hint; return the exit code."""
    if isinstance(error, StackerError):
        return _fail(error.exit_code, error.message, error.hint)
    if isinstance(error, BrokenPipeError):
        _close_stdout()
        return _BY_SIGNAL + signal.SIGPIPE
    if isinstance(error, OSError):
        return _system_error(error)
    if isinstance(error, Exception):
        return _unexpected(error)
    if isinstance(error, SignalledError):
        name = signal.Signals(error.number).name
        return _say(_BY_SIGNAL + error.number, f"stacker: ended by {name}")
    return _say(_BY_SIGNAL + signal.SIGINT, "stacker: interrupted")


def _unexpected(error: Exception) -> int:
    if isinstance(error, MemoryError):
        return _fail(1, "out of memory", None)
    text = " ".join(str(error).split())
    return _fail(1, f"internal error: {type(error).__name__}: {text}", _BUG)


def _system_error(error: OSError) -> int:
    if error.errno in _NO_SPACE and error.filename is None:
        # It may have been the output that did not fit: what is still to be written never will.
        _close_stdout()
    text = error.strerror or str(error)
    if error.filename is not None:
        text = f"{os.fsdecode(error.filename)}: {text}"
    full = "make room, or name a store on another filesystem with --store"
    return _fail(1, text, full if error.errno in _NO_SPACE else None)


def _fail(code: int, message: str, hint: str | None) -> int:
    _say(code, f"stacker: error: {message}")
    if hint and "\n" in hint:  # what a worker says of an error nobody expected
        hint = hint if "--debug" in sys.argv else _BUG
        return _say(code, *(f"hint: {line}" for line in hint.splitlines()))
    return _say(code, f"hint: {hint}") if hint else code


def _say(code: int, *lines: str) -> int:
    with suppress(OSError):
        for line in lines:
            print(printable(line), file=sys.stderr, flush=True)
    return code


def _print_traceback() -> None:
    import traceback

    with suppress(OSError):
        traceback.print_exc()


def _close_stdout() -> None:
    """Let the interpreter's last flush go nowhere, instead of failing a second time."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
