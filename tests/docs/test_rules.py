"""docs/rules.md names tests that exist, below the headings that the code cites."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support.command import REPOSITORY

RULES = (REPOSITORY / "docs" / "rules.md").read_text(encoding="utf-8")
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
