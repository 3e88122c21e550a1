"""The commands of README, tutorial and how-to guides, run as a reader would run them."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.support.command import REPOSITORY
from tests.support.console import Machine, Page

DOCS = REPOSITORY / "docs"
GUIDES = [*sorted((DOCS / "tutorial").glob("*.md")), *sorted((DOCS / "how-to").glob("*.md"))]
PAGES = [Page(path) for path in [REPOSITORY / "README.md", *GUIDES]]
ALL_PAGES = [Page(path) for path in [REPOSITORY / "README.md", *sorted(DOCS.rglob("*.md"))]]
RUNNABLE = [page for page in PAGES if page.commands()]


def _name(page: Page) -> str:
    return str(page.path.relative_to(REPOSITORY))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts: needs root")
@pytest.mark.usefixtures("alone_among_mounts")
@pytest.mark.parametrize("page", RUNNABLE, ids=_name)
def test_commands_of_a_page_print_what_it_says(page: Page) -> None:
    for tool in ("busybox", *page.tools()):
        if not shutil.which(tool):
            pytest.skip(f"no {tool}: scripts/test installs it")
    root = Path(tempfile.mkdtemp(prefix="page"))  # podman limits its paths to 50 characters
    try:
        differences = "\n\n".join(Machine(root).run(page))
    finally:
        shutil.rmtree(root)
    if page.needs_network and "pip install" in differences and "connection" in differences:
        pytest.skip("no package index can be reached")
    assert differences == ""


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_a_guide_has_commands_or_the_reason_why_they_are_not_run(page: Page) -> None:
    blocks = [block for block in page.blocks() if block.language in ("console", "sh")]
    assert blocks
    for block in blocks:
        assert block.language == "console", f"line {block.line}: not run: use console"
        assert block.reason != ""


@pytest.mark.parametrize("page", ALL_PAGES, ids=_name)
def test_a_console_block_outside_of_the_guides_is_marked(page: Page) -> None:
    if page not in PAGES:
        assert all(b.reason for b in page.blocks() if b.language == "console"), page.path
