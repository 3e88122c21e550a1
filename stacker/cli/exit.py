"""Run a command to its end: the last message on stderr and the exit code.

`exit_code_of` takes the command as a function and returns a number.  An exception becomes one line
on stderr and perhaps a hint; ``--debug`` adds the traceback.  A signal becomes an exception, so
that cleanup code runs.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

from stacker.cli.output import discard_stdout, flush, printable
from stacker.errors import NO_SPACE, NetworkError, StackerError, full_disk_hint, path_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_BY_SIGNAL = 128  # a shell reports the end by signal N as 128 + N
_LONGEST = 1024  # characters of a word that a message contains in full
_KEPT = 128  # characters that remain of a longer word
_BUG = "this is a bug in stacker; run the command with --debug for a traceback"


class SignalledError(BaseException):
    """A signal asked this process to end.

    Like ``KeyboardInterrupt`` it is not an ``Exception``, so that only cleanup code delays it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _TimeoutError(BaseException):
    """The time of ``--timeout`` is over; as for a signal, only cleanup code delays the end."""


@contextmanager
def time_limit(seconds: int, what: str) -> Iterator[None]:
    """Interrupt a block that takes longer than a limit.

    A timer of the kernel interrupts every wait: for a registry, for a lock, for a worker.  A limit
    per connection would not add up to one for the command.

    :param seconds: the limit; 0 for none.
    :param what: the command, for the message.
    :raises NetworkError: the block took longer.
    """
    if not seconds:
        yield
        return

    def end(_: int, __: FrameType | None) -> NoReturn:
        raise _TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _TimeoutError:
        raise NetworkError(
            f"timed out: {what}: not finished after {seconds} s, the limit of --timeout",
            hint="raise --timeout, or run the command again: a store, a registry and a layout keep "
            "what they have received",
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def open_standard_streams() -> None:
    """Open descriptors 0, 1 and 2 if the caller closed them, as with ``1>&-``.

    Otherwise the next file that the process opens gets such a number, and output of this process
    or of a child could end up in it.  Writes to a closed stdout fail; messages for a closed stderr
    are discarded.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # returns the lowest free number, which is this one
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            stream = os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace")
            setattr(sys, name, stream)


def exit_code_of(command: Callable[[], int], *, debug: bool = False) -> int:
    """Run a command, report its failure on stderr, and return the exit code.

    :param debug: print the traceback of an exception.
    """
    with _signals_raise():
        try:
            code = _run(command)
            flush()
        except BaseException as error:  # noqa: BLE001 - every exception ends here
            if debug:
                _print_traceback()
            return _explained(_unwrapped(error))
    return code


def _run(command: Callable[[], int]) -> int:
    try:
        return command()
    except SystemExit as done:  # argparse, after --help and --version
        return done.code if isinstance(done.code, int) else 0


@contextmanager
def _signals_raise() -> Iterator[None]:
    def end(number: int, _: FrameType | None) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)  # a second signal does not interrupt the cleanup
        raise SignalledError(number)

    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup(1) ignores SIGHUP
            with suppress(ValueError):  # not the main thread: a program that calls `main`
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _unwrapped(error: BaseException) -> BaseException:
    """Return the signal's exception if Python 3.11 has raised its own because of it.

    It does so around `__set_name__`, thus during an import (github.com/python/cpython issue 77757).
    """
    cause = error.__cause__
    if isinstance(error, RuntimeError) and isinstance(cause, SignalledError | KeyboardInterrupt):
        return cause
    return error


def _explained(error: BaseException) -> int:
    """Print the message and the hint of an exception, and return the exit code."""
    match error:
        case StackerError():
            return _fail(error.exit_code, error.message, error.hint)
        case BrokenPipeError():
            discard_stdout()
            return _BY_SIGNAL + signal.SIGPIPE
        case OSError():
            return _system_error(error)
        case Exception():
            return _unexpected(error)
        case SignalledError():
            name = signal.Signals(error.number).name
            return _say(_BY_SIGNAL + error.number, f"stacker: ended by {name}")
        case _:
            return _say(_BY_SIGNAL + signal.SIGINT, "stacker: interrupted")


def _unexpected(error: Exception) -> int:
    if isinstance(error, MemoryError):
        return _fail(1, "out of memory", None)
    text = " ".join(str(error).split())
    return _fail(1, f"internal error: {type(error).__name__}: {text}", _BUG)


def _system_error(error: OSError) -> int:
    text = error.strerror or str(error)
    if path := path_of(error):
        failed = "cannot write" if error.errno in NO_SPACE else "cannot access"
        text = f"{failed}: {path}: {text}"
    else:
        text = f"a system call failed: {text}"
    return _fail(1, text, full_disk_hint(error))


def _fail(code: int, message: str, hint: str | None) -> int:
    _say(code, f"stacker: error: {' '.join(map(_shortened, message.split(' ')))}")
    from stacker.linux.syscall import PATH_MAX  # a command without an error does not need it

    if hint and any(len(word) > PATH_MAX for word in hint.split()):
        return code  # a command with such a path fails, too
    if hint and "\n" in hint:  # the traceback of an unexpected error in a worker process
        hint = hint if "--debug" in sys.argv else _BUG
        return _say(code, *(f"hint: {line}" for line in hint.splitlines()))
    return _say(code, f"hint: {hint}") if hint else code


def _shortened(word: str) -> str:
    """Return a word of a message; cut a path that is too long for most system calls."""
    if len(word) <= _LONGEST:
        return word
    return f"{word[:_KEPT]}…{':' * word.endswith(':')}"


def _say(code: int, *lines: str) -> int:
    with suppress(OSError):
        for line in lines:
            print(printable(line), file=sys.stderr, flush=True)
    return code


def _print_traceback() -> None:
    import traceback

    with suppress(OSError):
        traceback.print_exc()
