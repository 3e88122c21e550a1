"""The prose of the package and its documentation avoids the words of words.txt."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "stacker" / "containerd" / "generated"
MODULES = sorted(set((ROOT / "stacker").rglob("*.py")) - set(GENERATED.glob("*_*.py")))
TESTS = sorted(path for path in (ROOT / "tests").rglob("*.py") if "lint" not in path.parts)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def avoided() -> list[tuple[re.Pattern[str], str]]:
    """Return each expression of words.txt with its advice."""
    lines = Path(__file__).with_name("words.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return [(re.compile(expression, re.IGNORECASE), advice) for expression, advice in pairs]


AVOIDED = avoided()


def prose_of(source: str) -> Iterator[tuple[int, str]]:
    """Yield the strings of more than one word and the comments of a module, with their lines."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def offences(line: int, text: str) -> list[str]:
    """Return the avoided words of a text, each with its line and its advice."""
    words = " ".join(text.split())
    return [
        f"line {line}: {found[0]!r}: {advice}"
        for expression, advice in AVOIDED
        for found in expression.finditer(words)
    ]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_avoids_the_words(path: Path) -> None:
    found = [row for text in prose_of(path.read_text(encoding="utf-8")) for row in offences(*text)]
    assert found == []


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_a_page_avoids_the_words(path: Path) -> None:
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    assert offences(1, text) == []


def test_an_avoided_word_is_found_in_every_kind_of_prose() -> None:
    source = '"""It was made anew."""\nmessage = f"what {1} wishes for"  # taken away\n'
    found = "\n".join(row for text in prose_of(source) for row in offences(*text))
    assert all(word in found for word in ("'anew'", "'wishes'", "'taken away'"))


def test_no_placeholder_is_left() -> None:
    marks = ("TO" + "DO", "FIX" + "ME", "XX" + "X:", "# FOL" + "DED")
    found = [
        f"{name_of(path)}: {mark}"
        for path in [*MODULES, *TESTS]
        for mark in marks
        if mark in path.read_text()
    ]
    assert found == []
