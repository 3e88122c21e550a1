"""The reader of documentation pages notices every difference between page and output."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.console import Command, Page, differences

PAGE = """\
<!-- tools: runc crun -->
<!-- not run: needs a terminal -->
```console
# top
```

```console
# echo a
a
# cat <<END
> b
>
> END
b

$ true
```
"""


@pytest.fixture
def page(tmp_path: Path) -> Page:
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return Page(path)


def test_commands_have_their_lines_and_their_output(page: Page) -> None:
    assert page.commands() == [
        Command(8, "echo a", ("a",)),
        Command(10, "cat <<END\nb\n\nEND", ("b", "")),
        Command(16, "true", ()),
    ]
    assert page.tools() == ["runc", "crun"]


def test_a_block_with_a_reason_is_not_run(page: Page) -> None:
    assert [block.reason for block in page.blocks()] == ["needs a terminal", None]


@pytest.mark.parametrize(
    ("expected", "output"),
    [
        (["a"], "a\n"),
        (["sha256:…"], "sha256:00\n"),
        (["…", "end"], "end\n"),
        (["…", "end"], "any\nlines\nend\n"),
        ([], ""),
    ],
)
def test_output_equal_to_the_page_is_accepted(expected: list[str], output: str) -> None:
    assert Command(1, "x", tuple(expected)).difference(output) == ""


@pytest.mark.parametrize(
    ("expected", "output"),
    [
        (["a"], "b\n"),
        (["a"], "a\nb\n"),
        ([], "a\n"),
        (["a"], ""),
        (["sha256:…"], "md5:00\n"),
        (["a.c"], "abc\n"),
        (["…", "end"], "end\nmore\n"),
    ],
)
def test_other_output_than_on_the_page_is_reported(expected: list[str], output: str) -> None:
    assert "line 1" in Command(1, "x", tuple(expected)).difference(output)


def test_a_command_that_fails_or_does_not_run_is_reported() -> None:
    commands = [Command(1, "a", ()), Command(2, "false", ()), Command(3, "c", ())]
    output = "@@command 0\n@@command 0 ends 0\n@@command 1\n@@command 1 ends 1\n"
    failed, missing = differences(commands, output)
    assert "line 2" in failed
    assert "ended with 1" in failed
    assert "line 3: not run" in missing
