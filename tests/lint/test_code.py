"""Rules for the code: types, style, import contracts, sizes, and what a library must not do."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "stacker" / "containerd" / "generated"
SOURCES = sorted(set((ROOT / "stacker").rglob("*.py")) - set(GENERATED.glob("*_*.py")))
COMMAND_LINE = (ROOT / "stacker" / "cli", ROOT / "stacker" / "__main__.py")
LIBRARY = [path for path in SOURCES if not any(map(path.is_relative_to, COMMAND_LINE))]
TOO_VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc"}
FORBIDDEN_IN_LIBRARY = {
    *("print", "input", "breakpoint", "exit", "quit"),
    *("sys.exit", "sys.argv", "sys.stdin", "sys.stdout", "sys.stderr"),
    *("os.environ", "os.getenv", "os.environb", "os.getenvb"),
}
LONGEST_MODULE = 400
LONGEST_FUNCTION = 40


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def run(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_finds_no_error() -> None:
    run("mypy")


def test_ruff_finds_no_error() -> None:
    run("ruff", "check", ".")


def test_ruff_would_reformat_no_file() -> None:
    run("ruff", "format", "--check", ".")


def test_import_contracts_are_kept() -> None:
    from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

    assert lint_imports(config_filename=str(ROOT / "pyproject.toml")) == EXIT_STATUS_SUCCESS


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_is_short_documented_and_has_a_specific_name(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_MODULE
    assert ast.get_docstring(ast.parse(text)), "no module docstring"
    assert path.stem not in TOO_VAGUE


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_function_body_has_at_most_40_lines(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert [f"{name}: {size}" for name, size in body_sizes(tree) if size > LONGEST_FUNCTION] == []


def body_sizes(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield each function's name and the number of lines of its body, without its docstring."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        if body:
            yield node.name, (body[-1].end_lineno or 0) - body[0].lineno + 1


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_the_library_does_not_print_exit_or_read_the_environment(path: Path) -> None:
    tree = ast.parse(path.read_text())
    explicit = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and function.name == "from_environment"
        for node in ast.walk(function)
    }
    used = {
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute | ast.Name) and node not in explicit
    }
    assert not used & FORBIDDEN_IN_LIBRARY
