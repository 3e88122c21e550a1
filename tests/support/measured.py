"""Measure the coverage of forked commands for less than coverage.py takes by itself.

In comes the configuration that coverage.py leaves in the environment; lines of a text file come
out, and `main` turns them into a data file for ``coverage combine``.  A start of coverage.py takes
35 ms of processor time, and its data file 7 ms, which is four times what a short command takes.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import sysconfig
from collections.abc import Collection, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NoReturn

Arcs = Mapping[str, Collection[tuple[int, int]]]
"""The pairs of line numbers that ran one after the other, by file (``CoverageData.add_arcs``)."""

LINES: Final = ".lines"
"""The suffix of the text file; the rest of its name is that of coverage.py's data file."""


def prepare() -> None:
    """Let each fork of this process start and save coverage fast, if coverage.py is installed."""
    with suppress(ImportError):  # only the group `test` of dependencies has it
        control = import_module("coverage.control")
        _omit_the_stack_of_a_start(import_module("coverage.collector"))
        _follow_forks_and_exits_once(control, import_module("coverage.patch"))
        # The result depends on the interpreter alone, and each start computes it 27 times.
        setattr(sysconfig, "get_paths", functools.cache(sysconfig.get_paths))  # noqa: B010
        setattr(control, "CoverageData", _Lines)  # noqa: B010 (a start constructs it)
        coverage = control.Coverage(config_file=False, data_file=None, branch=True)
        coverage.start()  # imports and compiles what each start needs
        coverage.stop()


def start() -> None:
    """Start coverage in a fork whose environment asks for it."""
    import_module("coverage").process_startup()


def _omit_the_stack_of_a_start(collector: ModuleType) -> None:
    """Omit the text of the call stack, which only debug output of coverage.py shows."""
    setattr(collector, "short_stack", str)  # noqa: B010 (25 ms, because it reads every module)


def _follow_forks_and_exits_once(control: ModuleType, patch: ModuleType) -> None:
    """Replace hooks that coverage.py adds again in each fork, so that all of them run each time."""
    ended = os._exit

    def save_and_exit(status: int) -> NoReturn:
        if current := control.Coverage.current():
            with suppress(Exception):
                current.save()
        ended(status)

    setattr(os, "_exit", save_and_exit)  # noqa: B010
    os.register_at_fork(after_in_child=control._after_fork_in_child)
    for name in ("_patch__exit", "_patch_fork"):
        setattr(patch, name, lambda *_: None)


class _Lines:
    """Stands for ``CoverageData``: it appends to a text file instead of writing a database.

    :param basename: the name of coverage.py's data file.
    """

    def __init__(self, basename: str | None = None, **_: object) -> None:
        self._path = f"{os.path.abspath(basename or '.coverage')}{LINES}"
        self._pid = os.getpid()

    def add_arcs(self, arcs: Arcs) -> None:
        """Append a line for each file; one write(2) does not mix with that of another process."""
        if os.getpid() != self._pid:  # the parent saves what it ran before the fork
            return
        text = "".join(f"{json.dumps([file, sorted(arcs[file])])}\n" for file in arcs)
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(fd, f"\n{text}".encode())  # a killed process may have left half a line
        finally:
            os.close(fd)

    def __bool__(self) -> bool:
        return True

    def __getattr__(self, _: str) -> Any:
        return lambda *_, **__: None  # contexts, plugins and the end of the file need nothing


def read_lines(path: Path) -> dict[str, set[tuple[int, int]]]:
    """Return the arcs of every process.

    :param path: the text file; a line that a killed process left incomplete counts for nothing.
    """
    arcs: dict[str, set[tuple[int, int]]] = {}
    with path.open() as file:
        for line in {line for line in file if line.startswith("[")}:
            with suppress(ValueError):
                name, pairs = json.loads(line)
                arcs.setdefault(name, set()).update((begin, end) for begin, end in pairs)
    return arcs


def main() -> None:
    """Write the data file of coverage.py whose text file is the first argument."""
    path = Path(sys.argv[1])
    data = import_module("coverage").CoverageData(str(path.with_suffix("")), suffix="forks")
    data.add_arcs(read_lines(path))
    data.write()
    path.unlink()


if __name__ == "__main__":
    main()
