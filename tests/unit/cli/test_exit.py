"""Exceptions and signals end a command with one message and an exit code."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from typing import NoReturn

import pytest

from stacker import errors
from stacker.cli import main
from stacker.cli.exit import SignalledError, exit_code_of
from stacker.errors import StackerError


def raising(error: BaseException) -> Callable[[], NoReturn]:
    def command() -> NoReturn:
        raise error

    return command


CODES: dict[type[StackerError], int] = {
    errors.StackerError: 1,
    errors.UsageError: 2,
    errors.NotFoundError: 3,
    errors.AuthenticationError: 4,
    errors.IntegrityError: 5,
    errors.LayerError: 6,
    errors.UnsupportedError: 7,
    errors.LockedError: 8,
    errors.MountError: 9,
    errors.RefusedError: 9,
    errors.NetworkError: 10,
    errors.StartError: 1,  # unless the error has the code of the program
}


def test_every_error_class_is_in_the_table() -> None:
    defined = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, StackerError)
    ]
    assert set(CODES) == set(defined)
    with_own_code = [kind for kind in defined if "exit_code" in vars(kind)]
    assert len({kind.exit_code for kind in with_own_code}) == len(with_own_code)
    assert set(defined) - set(with_own_code) == {errors.RefusedError, errors.StartError}


@pytest.mark.parametrize(("kind", "code"), CODES.items())
def test_each_error_class_has_its_own_exit_code(
    kind: type[StackerError], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(raising(kind("a: b: got \x1b, want \n", hint="c"))) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "stacker: error: a: b: got \\x1b, want \\n\nhint: c\n"


@pytest.mark.parametrize("kind", CODES)
def test_no_stacker_error_is_an_oserror(kind: type[StackerError]) -> None:
    assert not issubclass(kind, OSError)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            FileNotFoundError(errno.ENOENT, "No such file", "/a"),
            1,
            "cannot access: /a: No such file",
        ),
        (OSError(errno.EIO, "I/O error"), 1, "a system call failed: I/O error"),
        (OSError(errno.EIO, "I/O error", 3), 1, "a system call failed: I/O error"),
        (OSError("odd"), 1, "a system call failed: odd"),
        (MemoryError(), 1, "out of memory"),
        (KeyError("x\ny"), 1, "internal error: KeyError: 'x\\ny'"),
        (RecursionError("deep\nand deeper"), 1, "internal error: RecursionError: deep and deeper"),
    ],
)
def test_other_exceptions_are_one_line_and_exit_code_1(
    error: Exception, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(raising(error)) == code
    assert (
        capsys.readouterr().err.splitlines()[0].replace("\\\\", "\\") == f"stacker: error: {line}"
    )


def test_full_disk_has_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    exit_code_of(raising(OSError(errno.ENOSPC, "No space left on device", "/a")))
    assert "hint: free some space" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt(), 130), (SignalledError(15), 143), (SystemExit(0), 0), (SystemExit(2), 2)],
)
def test_interrupts_and_signals_have_the_exit_codes_of_a_shell(
    error: BaseException, code: int
) -> None:
    assert exit_code_of(raising(error)) == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_runs_cleanup_code(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before, cleaned = signal.getsignal(number), []

    def command() -> int:
        try:
            os.kill(os.getpid(), number)
            signal.sigtimedwait([], 1)
        finally:
            cleaned.append(number)
        return 0

    assert exit_code_of(command) == 128 + number
    assert cleaned == [number]
    assert signal.getsignal(number) is before
    assert capsys.readouterr().err == f"stacker: ended by {number.name}\n"


def test_signal_while_a_class_is_created_is_no_internal_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Attribute:
        def __set_name__(self, owner: type, name: str) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.sigtimedwait([], 1)

    def command() -> int:
        type("Owner", (), {"attribute": Attribute()})
        return 0

    assert exit_code_of(command) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "stacker: ended by SIGTERM\n"


def test_traceback_needs_debug(capsys: pytest.CaptureFixture[str]) -> None:
    exit_code_of(raising(ValueError("x")))
    assert "Traceback" not in capsys.readouterr().err
    exit_code_of(raising(ValueError("x")), debug=True)
    assert "Traceback" in capsys.readouterr().err


def test_traceback_of_a_worker_needs_debug(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = StackerError("internal error: KeyError: 1", hint="Traceback\n  line 1\n")
    monkeypatch.setattr("sys.argv", ["stacker", "pull"])
    exit_code_of(raising(error))
    assert capsys.readouterr().err.splitlines()[1:] == [
        "hint: this is a bug in stacker; run the command with --debug for a traceback"
    ]
    monkeypatch.setattr("sys.argv", ["stacker", "pull", "--debug"])
    exit_code_of(raising(error))
    assert capsys.readouterr().err.splitlines()[1:] == ["hint: Traceback", "hint:   line 1"]


@pytest.mark.parametrize("words", [["--help"], ["mount", "--help"], ["-h"], ["images", "-h"]])
def test_help_is_printed_on_stdout(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Usage: stacker")
    assert err == ""


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "stacker 0.1.0\n"
