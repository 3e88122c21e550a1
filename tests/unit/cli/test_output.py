"""Texts for terminals, and sizes."""

from __future__ import annotations

import pytest

from stacker.cli.output import printable, shortened, size


@pytest.mark.parametrize(
    "char", ["\0", "\a", "\x1b", "\r", "\n", "\t", "\x7f", "\x9b", "\u202e", "\u2028", "\udcff"]
)
def test_control_character_is_escaped(char: str) -> None:
    shown = printable(f"a{char}b")
    assert shown.isprintable()
    assert shown.startswith("a\\")
    assert shown.endswith("b")


@pytest.mark.parametrize("text", ["", "plain", "caf\u00e9", "\u6f22\u5b57", "a\\b"])
def test_printable_text_is_unchanged(text: str) -> None:
    assert printable(text) == text


def test_long_text_is_cut() -> None:
    assert shortened("a\n\tb  c", 10) == "a b c"
    assert shortened("x" * 11, 10) == "x" * 9 + "…"
    assert shortened("x" * 10, 10) == "x" * 10


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024 * 1024 - 1, "1.0 MiB"),
        (5 << 30, "5.0 GiB"),
        (3 << 50, "3.0 PiB"),
        (3 << 60, "3072.0 PiB"),
    ],
)
def test_size_has_a_binary_unit(count: int, text: str) -> None:
    assert size(count) == text
