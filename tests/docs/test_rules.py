"""The rules and the table of vulnerabilities name tests that exist; the code cites headings."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support.command import REPOSITORY

RULES = (REPOSITORY / "docs" / "rules.md").read_text(encoding="utf-8")
SECURITY = (REPOSITORY / "docs/explanation/security.md").read_text(encoding="utf-8")
HEADINGS = set(re.findall(r"^## (.*)$", RULES, re.MULTILINE))
CITATION = re.compile(r"docs/rules\.md, (?:\*)?([A-Z][a-z]+(?: marks| dialects)?)")
SOURCES = [path for name in ("stacker", "tests") for path in (REPOSITORY / name).rglob("*.py")]


def _tests() -> set[str]:
    trees = [ast.parse(path.read_bytes()) for path in (REPOSITORY / "tests").rglob("test_*.py")]
    return {
        node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    }


def test_every_test_that_a_rule_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", RULES))
    assert named
    assert named - _tests() == set()


def test_every_vulnerability_names_a_defence_and_a_test_that_exists() -> None:
    rows = [line for line in SECURITY.splitlines() if line.startswith("| CVE-")]
    tests = _tests()
    for row in rows:
        _, _, failure, defence, named, _ = row.split("|")
        assert failure.strip(), row
        assert defence.strip(), row
        assert re.findall(r"`(test_\w+)`", named), row
        assert set(re.findall(r"`(test_\w+)`", named)) <= tests, row
    assert len(set(re.findall(r"CVE-\d{4}-\d{4,}", "".join(rows)))) >= 30


def test_every_rule_names_a_reason_and_a_test() -> None:
    rows = [line for line in RULES.splitlines() if line.startswith("| ")]
    rules = [row for row in rows if not row.startswith(("| rule ", "|---"))]
    for rule in rules:
        _, text, reason, tests, _ = re.split(r"(?<!\\)\|", rule)
        assert text.strip()
        assert reason.strip()
        assert "`test_" in tests, rule


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(Path(path).name))
def test_the_code_cites_headings_that_exist(path: Path) -> None:
    assert set(CITATION.findall(path.read_text(encoding="utf-8"))) <= HEADINGS
