"""`scripts/torture` counts findings, prints a table, and keeps the table in the documentation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.torture.__main__ import (
    BEGIN,
    END,
    PAGE,
    ROOT,
    SWEEPS,
    Row,
    count,
    main,
    rows_of,
    with_table,
)

KILL = Row("kill", 20, 1234, 0, 3600, "2026-12-02", "v1.0-3-gabcdef0", "6.12.1")
FUZZ = Row("fuzz", 11, 9_876_543, 2, 60, "2026-12-01", "v1.0", "6.12.0")
EMPTY = f"# Page\n\n{BEGIN}\n{END}\n\nThe rest.\n"


def torture(*options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.torture", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_names_every_sweep() -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "torture", "--help"], capture_output=True, text=True, check=True
    )
    assert all(f"\n  {name} " in done.stdout for name in SWEEPS)


def test_unknown_sweep_is_refused_with_the_known_ones() -> None:
    done = torture("--only", "kill,unknown")
    assert done.returncode == 2
    assert "got unknown, want some of kill, errno" in done.stderr


def test_sample_is_not_written_to_the_documentation() -> None:
    done = torture("--sample", "--write")
    assert done.returncode == 1
    assert "--write needs whole sweeps" in done.stderr


SWEEP = """
from tests.torture.sweep import is_whole, write_counts

def test_a_scenario_with_findings():
    assert is_whole()
    write_counts("kill", "pull", 3, 2, 0.5)
    raise AssertionError("two findings")

def test_a_scenario_without_findings():
    write_counts("kill", "rm", 4, 0, 0.5)
"""


def test_counts_and_log_of_a_sweep_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test_sweep.py").write_text(SWEEP)
    monkeypatch.setitem(SWEEPS, "kill", (str(tmp_path / "test_sweep.py"), "a sweep"))
    output = tmp_path / "output"
    monkeypatch.setattr(sys, "argv", ["torture", "--only", "kill", "--output", str(output)])
    assert main() == 1
    (sweep,) = json.loads((output / "counts.json").read_bytes())["sweeps"]
    expected = {"sweep": "kill", "scenarios": 2, "points": 7, "findings": 2}
    assert expected.items() <= sweep.items()
    assert {"date", "commit", "kernel"} < set(sweep)
    assert "two findings" in (output / "kill.log").read_text()
    header, cells, log = capsys.readouterr().out.splitlines()
    assert header.split()[:5] == ["sweep", "scenarios", "points", "findings", "seconds"]
    assert cells.split()[:4] == ["kill", "2", "7", "2"]
    assert log == f"findings: see {output}/kill.log"


INTERRUPTED = """
from tests.torture.sweep import write_counts

def test_a_scenario_without_findings():
    write_counts("kill", "rm", 4, 0, 0.5)

def test_a_scenario_that_control_c_ends():
    raise KeyboardInterrupt
"""


@pytest.mark.parametrize("tests", [INTERRUPTED, "", "def test_without_counts(): pass"])
def test_sweep_that_did_not_end_is_not_recorded(
    tests: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "test_sweep.py").write_text(tests)
    page = tmp_path / "page.md"
    page.write_text(EMPTY)
    monkeypatch.setitem(SWEEPS, "kill", (str(tmp_path / "test_sweep.py"), "a sweep"))
    monkeypatch.setattr("tests.torture.__main__.PAGE", page)
    options = ["--only", "kill", "--jobs", "0", "--write", "--output", str(tmp_path / "output")]
    monkeypatch.setattr(sys, "argv", ["torture", *options])
    with pytest.raises(SystemExit, match="kill: the sweep did not end: got exit code"):
        main()
    assert page.read_text() == EMPTY
    assert not (tmp_path / "output" / "counts.json").exists()


def test_failed_test_without_counts_is_a_finding() -> None:
    counts = [{"points": 3, "findings": 2}, {"points": 4, "findings": 0}]
    assert count(counts, failed=1) == (7, 2)
    assert count(counts, failed=2) == (7, 3)


def test_table_keeps_the_rows_of_sweeps_that_did_not_run() -> None:
    page = with_table(with_table(EMPTY, [FUZZ]), [KILL])
    assert rows_of(page) == [KILL, FUZZ]
    assert "| fuzz | 11 | 9,876,543 | 2 | 60 | 2026-12-01 | v1.0 | 6.12.0 |" in page
    assert page.startswith("# Page\n")
    assert page.endswith("\n\nThe rest.\n")


def test_page_without_marks_is_refused() -> None:
    with pytest.raises(SystemExit, match="got no marks"):
        with_table("# Page\n", [KILL])


def test_documentation_has_the_marks_of_the_table() -> None:
    page = PAGE.read_text()
    assert page.index(BEGIN) < page.index(END)
