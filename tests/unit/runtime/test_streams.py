"""The terminal between a process and the caller's streams."""

from __future__ import annotations

import os
import subprocess
import termios
from pathlib import Path

from stacker.runtime.streams import new_terminal


def run_in_terminal(script: str, given: Path, output: Path, *, raw: bool = False) -> str:
    """Run a shell in a new terminal, with files as the caller's streams."""
    with given.open("rb") as stdin, output.open("wb") as stdout:
        numbers = (stdin.fileno(), stdout.fileno())
        with new_terminal(numbers, raw=raw) as (terminal, streams):
            one, two, three = streams.numbers
            with subprocess.Popen(["sh", "-c", script], stdin=one, stdout=two, stderr=three) as sh:
                terminal.copy_until_exit(sh.pid)
    return output.read_bytes().decode()


def test_output_after_the_end_of_the_process_is_copied(tmp_path: Path) -> None:
    (tmp_path / "in").touch()
    text = run_in_terminal("seq 1 20000", tmp_path / "in", tmp_path / "out")
    assert text.split("\r\n")[-2:] == ["20000", ""]
    assert text.count("\n") == 20000


def test_end_of_the_input_reaches_the_process(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("one\ntwo\n")
    script = "stty -echo; while read -r line; do echo got $line; done; echo end"
    text = run_in_terminal(script, tmp_path / "in", tmp_path / "out")
    assert text.endswith("got one\r\ngot two\r\nend\r\n")


def test_input_that_the_process_does_not_read_delays_no_output(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"x" * 1_000_000)
    text = run_in_terminal("seq 1 20000", tmp_path / "in", tmp_path / "out", raw=True)
    assert text.endswith("20000\n")


def test_terminal_has_the_size_and_keeps_the_attributes_of_the_callers(tmp_path: Path) -> None:
    master, slave = os.openpty()
    try:
        termios.tcsetwinsize(slave, (31, 71))
        before = termios.tcgetattr(slave)
        with new_terminal((slave, slave), raw=False) as (_, streams):
            assert termios.tcgetwinsize(streams.numbers[0]) == (31, 71)
            assert termios.tcgetattr(slave) != before
        assert termios.tcgetattr(slave) == before
    finally:
        os.close(master)
        os.close(slave)
