"""Run a command to its end: the last message on stderr, the exit code, and the flush of its store.

`exit_code_of` takes the command as a function and returns a number.  An exception becomes one line
on stderr and perhaps a hint; ``--debug`` adds the traceback.  A signal becomes an exception, so
that cleanup code runs.  A verb calls `flush_later` to write the new layers to disk after the
command has answered.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from stacker.cli.output import SCHEMA, discard_stdout, flush, printable
from stacker.errors import NO_SPACE, NetworkError, StackerError, full_disk_hint, path_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

_BY_SIGNAL = 128  # a shell reports the end by signal N as 128 + N
_LONGEST = 1024  # characters of a word that a message contains in full
_KEPT = 128  # characters that remain of a longer word
_stores: list[Path] = []
"""The stores to flush at the end of the command."""
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


def exit_code_of(command: Callable[[], int], *, debug: bool = False, as_json: bool = False) -> int:
    """Run a command, report its failure on stderr, and return the exit code.

    :param debug: print the traceback of an exception.
    :param as_json: report the failure as a JSON document.
    """
    with _signals_raise():
        try:
            code = _run(command)
            flush()
        except BaseException as error:  # noqa: BLE001 - every exception ends here
            if debug:
                _print_traceback()
            error = _unwrapped(error)
            if isinstance(error, BrokenPipeError):
                discard_stdout()
                return _BY_SIGNAL + signal.SIGPIPE
            return _report(_failure(error), as_json=as_json)
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
    """Return the exception of a signal, also if Python 3.11 has replaced it by its own.

    Python replaces each exception of `__set_name__`, which runs during imports
    (github.com/python/cpython issue 77757).
    """
    cause = error.__cause__
    if isinstance(error, RuntimeError) and isinstance(cause, SignalledError | KeyboardInterrupt):
        return cause
    return error


@dataclass(frozen=True, slots=True)
class _Failure:
    """The last message of a command, and its exit code.

    :param kind: the class of the error in words, such as ``not-found``.
    :param is_error: whether the text starts with ``error:``.
    """

    code: int
    kind: str
    message: str
    hint: str | None = None
    is_error: bool = True


def _failure(error: BaseException) -> _Failure:
    match error:
        case StackerError():
            return _Failure(error.exit_code, _kind(error), error.message, error.hint)
        case OSError():
            return _system_error(error)
        case MemoryError():
            return _Failure(1, "error", "out of memory")
        case Exception():
            text = " ".join(str(error).split())
            name = type(error).__name__
            return _Failure(1, "internal", f"internal error: {name}: {text}", _BUG)
        case SignalledError():
            name = signal.Signals(error.number).name
            return _Failure(_BY_SIGNAL + error.number, "signal", f"ended by {name}", is_error=False)
        case _:
            return _Failure(_BY_SIGNAL + signal.SIGINT, "signal", "interrupted", is_error=False)


def _kind(error: StackerError) -> str:
    """Return the name of the class that the exit code belongs to, such as ``not-found``."""
    owner = next(kind for kind in type(error).__mro__ if "exit_code" in vars(kind))
    name = owner.__name__.removesuffix("Error")
    words = re.sub("(?<=[a-z])(?=[A-Z])", "-", name).lower()
    return "error" if owner is StackerError else words


def _system_error(error: OSError) -> _Failure:
    text = error.strerror or str(error)
    if path := path_of(error):
        failed = "cannot write" if error.errno in NO_SPACE else "cannot access"
        text = f"{failed}: {path}: {text}"
    else:
        text = f"a system call failed: {text}"
    return _Failure(1, "error", text, full_disk_hint(error))


def _report(failure: _Failure, *, as_json: bool) -> int:
    """Print a failure, and return its exit code."""
    from stacker.linux.syscall import PATH_MAX  # a command without an error does not need it

    message = " ".join(map(_shortened, failure.message.split(" ")))
    hint = failure.hint
    if hint and any(len(word) > PATH_MAX for word in hint.split()):
        hint = None  # a command with such a path fails, too
    if hint and "\n" in hint and "--debug" not in sys.argv:
        hint = _BUG  # the traceback of an unexpected error in a worker process
    if as_json:
        _say(_document(failure, message, hint))
        return failure.code
    _say(f"stacker: {'error: ' * failure.is_error}{message}")
    if hint:
        _say(*(f"hint: {line}" for line in hint.splitlines()))
    return failure.code


def _document(failure: _Failure, message: str, hint: str | None) -> str:
    import json

    error = {"kind": failure.kind, "message": message, "hint": hint, "exit_code": failure.code}
    return json.dumps({"schema": SCHEMA, "kind": "error", "error": error}, separators=(",", ":"))


def _shortened(word: str) -> str:
    """Return a word of a message; cut a path that is too long for most system calls."""
    if len(word) <= _LONGEST:
        return word
    return f"{word[:_KEPT]}…{':' * word.endswith(':')}"


def _say(*lines: str) -> None:
    with suppress(OSError):
        for line in lines:
            print(printable(line), file=sys.stderr, flush=True)


def _print_traceback() -> None:
    import traceback

    with suppress(OSError):
        traceback.print_exc()


def flush_later(root: Path) -> None:
    """Register the store at ``root`` for a flush at the end of the command."""
    _stores.append(root)


def flush_now_in_background() -> None:
    """Fork a process that flushes the registered stores; do not wait for it.

    A shutdown sends SIGTERM to all processes, and waits for them before it unmounts filesystems.
    The child ignores SIGTERM, so an orderly shutdown ends with all layers marked.  If the child is
    killed, its layers stay unmarked, and stacker verifies them after the next boot.
    """
    if not _stores:
        return
    with suppress(OSError):  # no more processes: the next command flushes
        if os.fork() == 0:
            _flush()


def _flush() -> None:
    try:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.setsid()
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(null, standard)
        from stacker.operations import durability
        from stacker.store.store import Store

        for root in _stores:
            durability.flush(Store(root))
    finally:
        os._exit(0)
