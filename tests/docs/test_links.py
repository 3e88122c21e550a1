"""Links between pages, paths in the code, and the import order in the documentation are right."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.support.command import REPOSITORY

PAGES = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH_OF_A_PAGE = re.compile(r"\bdocs/[\w./-]*\.(?:md|json)\b")
CODE = ("stacker", "tests", "benchmarks", "scripts")
ARCHITECTURE = (REPOSITORY / "docs/explanation/architecture.md").read_text(encoding="utf-8")


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_a_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


def test_every_page_is_linked_from_the_table_of_contents() -> None:
    docs = REPOSITORY / "docs"
    linked = LINK.findall((docs / "README.md").read_text(encoding="utf-8"))
    assert {page for page in docs.rglob("*.md") if page != docs / "README.md"} == {
        docs / link for link in linked if link.endswith(".md")
    }


def test_paths_of_pages_in_the_code_exist() -> None:
    listed = subprocess.run(
        ["git", "ls-files", *CODE], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.split():
        path = REPOSITORY / name
        if path.suffix in (".py", "") and path.is_file():
            for found in PATH_OF_A_PAGE.findall(path.read_text(encoding="utf-8")):
                assert (REPOSITORY / found).exists(), f"{name}: {found}"


def test_architecture_has_the_import_order_of_pyproject() -> None:
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    layers = next(each["layers"] for each in contracts if each["type"] == "layers")
    assert " > ".join(layers).replace("stacker.", "") in ARCHITECTURE


def test_architecture_has_a_sentence_for_every_package() -> None:
    packages = {path.parent.name for path in (REPOSITORY / "stacker").glob("*/__init__.py")}
    assert {f"`{name}/`" for name in packages} <= set(
        re.findall(r"^\| (`\w+/`)", ARCHITECTURE, re.MULTILINE)
    )


def test_architecture_names_files_that_exist() -> None:
    for name in re.findall(r"`([a-z]+/[\w/]+\.py)`", ARCHITECTURE):
        assert (REPOSITORY / "stacker" / name).exists(), name
