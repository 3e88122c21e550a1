"""The rules of the house, held by tools: types, style, and which way imports may point."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "stacker").rglob("*.py"))
COMMAND_LINE = (ROOT / "stacker" / "cli", ROOT / "stacker" / "__main__.py")
LIBRARY = [path for path in SOURCES if not any(map(path.is_relative_to, COMMAND_LINE))]
TOO_VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc"}


def run(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_types_hold_strictly() -> None:
    run("mypy")


def test_style_holds() -> None:
    run("ruff", "check", ".")


def test_format_holds() -> None:
    run("ruff", "format", "--check", ".")


def test_imports_point_one_way() -> None:
    from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

    assert lint_imports(config_filename=str(ROOT / "pyproject.toml")) == EXIT_STATUS_SUCCESS


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_is_under_400_lines_and_says_what_it_is(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text)), "no module docstring"
    assert path.stem not in TOO_VAGUE


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_neither_prints_nor_exits_nor_reads_the_environment(path: Path) -> None:
    used = {
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute | ast.Name)
    }
    assert not used & {"print", "sys.exit", "os.environ", "os.getenv", "sys.stdout", "sys.argv"}
