"""Run whole sweeps and print a table:  python -m tests.torture [OPTION...]

In come the names of sweeps.  Each sweep runs in pytest and appends its counts to a file.  Out come
a table, a JSON document, and the table in the documentation.  This module imports the standard
library only, so that ``--help`` needs no environment.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "explanation" / "reliability.md"
BEGIN: Final = "<!-- The table is written by scripts/torture --write. -->"
END: Final = "<!-- End of the table. -->"
_MEMORY: Final = Path("/dev/shm")
_ENDED: Final = {0, 1}
"""The exit codes of a pytest that ran all tests; others are an interrupt or a usage error."""
_SPACE: Final = 1 << 30  # bytes of the filesystem that holds the worlds of a sweep
SWEEPS: Final = {
    "kill": ("test_kill.py", "kill the process group before each system call that changes a file"),
    "errno": ("test_errno.py", "let each of these calls fail with two of six errors"),
    "reads": ("test_reads.py", "let each call that reads, or uses a socket, fail with an error"),
    "signals": ("test_signals.py", "send INT, TERM, HUP or KILL at random instants"),
    "full": ("test_full.py", "run on a tmpfs that runs out of bytes or inodes"),
    "power": ("test_power.py", "cut the power of ext4 and xfs during and after a command"),
    "soak": ("test_soak.py", "run all verbs from 8 processes on one store for 10 minutes"),
    "fuzz": ("../fuzz", "give random bytes to each parser, for --fuzz-seconds in total"),
}
"""Each sweep's tests below tests/torture, and what it does."""


@dataclass(frozen=True)
class Row:
    """The counts of one sweep, and what they were counted with."""

    sweep: str
    scenarios: int
    points: int
    findings: int
    seconds: int
    date: str
    commit: str
    kernel: str

    @classmethod
    def of(cls, cells: Sequence[str]) -> Row:
        """Return the row with these cells."""
        numbers = [int(cell.replace(",", "")) for cell in cells[1:5]]
        return cls(cells[0], *numbers, *cells[5:])  # type: ignore[arg-type]

    @property
    def cells(self) -> tuple[str, ...]:
        """Return the row's cells as text."""
        numbers = (self.scenarios, self.points, self.findings, self.seconds)
        about = (self.date, self.commit, self.kernel)
        return self.sweep, *(f"{number:,}" for number in numbers), *about


HEADER: Final = tuple(field.name for field in fields(Row))


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    listed = "\n".join(f"  {name:8} {text}" for name, (_, text) in SWEEPS.items())
    result = argparse.ArgumentParser(
        prog="scripts/torture",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Disturb stacker in every way the tests know, check the store after each "
        f"disturbance, and print a table.\n\nsweeps:\n{listed}",
        epilog="""examples:
  scripts/torture --only kill,power      two sweeps, every point
  scripts/torture --sample               all sweeps with the few points of CI: minutes
  scripts/torture --write                everything: hours; update the table after each sweep

A finding is a fault after which a promise of docs/explanation/reliability.md is broken. The log
of each sweep has the details. The exit code is 1 if there is a finding.""",
    )
    result.add_argument(
        "--only", metavar="SWEEP,...", type=_sweeps, default=tuple(SWEEPS), help="run these sweeps"
    )
    result.add_argument("--sample", action="store_true", help="run the few points that CI runs")
    result.add_argument(
        "--fuzz-seconds",
        metavar="N",
        type=int,
        help="fuzz for N seconds, shared by all targets (default 3600; 20 with --sample)",
    )
    result.add_argument(
        "--jobs", metavar="N", type=int, default=2, help="tests at the same time (default 2)"
    )
    result.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        default=ROOT / "torture",
        help="write counts.json and the log of each sweep to DIR (default ./torture)",
    )
    result.add_argument(
        "--write",
        action="store_true",
        help="update the rows of these sweeps in docs/explanation/reliability.md",
    )
    return result


def _sweeps(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(SWEEPS):
        raise argparse.ArgumentTypeError(
            f"unknown sweep: got {', '.join(sorted(unknown))}, want some of {', '.join(SWEEPS)}"
        )
    return names


def environment(counts: Path, *, sample: bool, fuzz_seconds: int | None) -> dict[str, str]:
    """Return the environment of a sweep's tests."""
    seconds = fuzz_seconds or (20 if sample else 3600)
    chosen = {
        "STACKER_TORTURE_COUNTS": str(counts),
        "STACKER_FUZZ_SECONDS": str(seconds),
        "STACKER_TORTURE": "" if sample else "all",
    }
    return {**os.environ, **chosen}


@contextmanager
def work_directory() -> Iterator[Path]:
    """Yield a directory for the worlds of a sweep.

    For root it is a new ext4 filesystem in memory: a flush neither waits for a slow disk nor
    writes the data of other programs.
    """
    with tempfile.TemporaryDirectory(prefix="stacker-torture-") as temporary:
        path = Path(temporary)
        if os.geteuid() != 0 or not _MEMORY.is_dir():
            yield path
            return
        image = _MEMORY / path.name
        with image.open("wb") as file:
            file.truncate(_SPACE)
        try:
            subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
            subprocess.run(["mount", "-o", "loop", image, path], check=True)
            yield path
        finally:
            subprocess.run(["umount", "-l", path], check=False)
            image.unlink()


def run(name: str, options: argparse.Namespace, commit: str) -> Row:
    """Run one sweep; return its counts.

    :param commit: the commit under test.
    :raises SystemExit: the sweep did not end, or counted nothing.
    """
    output: Path = options.output
    counts, report = output / f"{name}.jsonl", output / f"{name}.xml"
    for old in (counts, report):
        old.unlink(missing_ok=True)
    started, about = time.monotonic(), (time.strftime("%Y-%m-%d"), commit, platform.release())
    with work_directory() as directory, (output / f"{name}.log").open("w") as log:
        command = [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-n", str(options.jobs), "--dist", "worksteal", "--timeout", "0"),
            *(f"--basetemp={directory}/t", f"--junitxml={report}"),
            str(ROOT / "tests" / "torture" / SWEEPS[name][0]),
        ]
        environ = environment(counts, sample=options.sample, fuzz_seconds=options.fuzz_seconds)
        done = subprocess.run(command, cwd=ROOT, env=environ, stdout=log, stderr=log, check=False)
    lines = counts.read_text().splitlines() if counts.exists() else []
    if done.returncode not in _ENDED or not (lines or done.returncode):
        raise SystemExit(
            f"{name}: the sweep did not end: got exit code {done.returncode} of pytest and "
            f"{len(lines)} scenarios: see {output / f'{name}.log'}"
        )
    points, findings = count([json.loads(line) for line in lines], failures(report))
    return Row(name, len(lines), points, findings, round(time.monotonic() - started), *about)


def checked_out() -> str:
    """Return the commit that is checked out."""
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def failures(report: Path) -> int:
    """Return the number of failed tests in a JUnit report; 1 if pytest wrote none."""
    if not report.exists():
        return 1
    suites = ET.parse(report).getroot().iter("testsuite")
    return sum(int(suite.get(key, "0")) for suite in suites for key in ("failures", "errors"))


def count(counts: Sequence[dict[str, int]], failed: int) -> tuple[int, int]:
    """Return the points and the findings of a sweep.

    A failed test without findings of its own is a finding.
    """
    findings = sum(count["findings"] for count in counts)
    without = max(0, failed - sum(count["findings"] > 0 for count in counts))
    return sum(count["points"] for count in counts), findings + without


def as_text(rows: Iterable[Row]) -> str:
    """Return the table for a terminal."""
    lines = [HEADER, *(row.cells for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])])
        for cells in lines
    )


def as_markdown(rows: Iterable[Row]) -> str:
    """Return the table for the documentation."""
    head = [f"| {' | '.join(HEADER)} |", "| --- | ---: | ---: | ---: | ---: | --- | --- | --- |"]
    return "\n".join([*head, *(f"| {' | '.join(row.cells)} |" for row in rows)])


def rows_of(page: str) -> list[Row]:
    """Return the rows of the table in a page."""
    table = page.partition(BEGIN)[2].partition(END)[0]
    cells = [line.strip("| ").split(" | ") for line in table.splitlines() if line[:2] == "| "]
    return [Row.of(row) for row in cells if row[0] in SWEEPS]


def with_table(page: str, rows: Sequence[Row]) -> str:
    """Return a page with new rows in its table; rows of other sweeps stay."""
    merged = {row.sweep: row for row in (*rows_of(page), *rows)}
    ordered = [merged[name] for name in SWEEPS if name in merged]
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{PAGE}: got no marks of a table, want {BEGIN} and {END}")
    return f"{before}{begin}\n{as_markdown(ordered)}\n{end}{after}"


def main() -> int:
    """Run the sweeps; return the exit code."""
    options = parser().parse_args()
    if options.write and options.sample:
        raise SystemExit("--write needs whole sweeps: omit --sample")
    options.output.mkdir(parents=True, exist_ok=True)
    rows, commit = [], checked_out()  # before --write changes a file
    for name in options.only:
        sys.stderr.write(f"{name}: {SWEEPS[name][1]}\n")
        rows.append(run(name, options, commit))
        document = {"sample": options.sample, "sweeps": list(map(asdict, rows))}
        (options.output / "counts.json").write_text(json.dumps(document, indent=1) + "\n")
        if options.write:
            PAGE.write_text(with_table(PAGE.read_text(), rows))
    sys.stdout.write(f"{as_text(rows)}\n")
    found = [row.sweep for row in rows if row.findings]
    if found:
        logs = ", ".join(str(options.output / f"{name}.log") for name in found)
        sys.stdout.write(f"findings: see {logs}\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
