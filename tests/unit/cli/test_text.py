"""Text for terminals, sizes, counts."""

from __future__ import annotations

import pytest

from stacker.cli.text import parse_count, parse_size, printable, shortened, size


@pytest.mark.parametrize(
    "char", ["\0", "\a", "\x1b", "\r", "\n", "\t", "\x7f", "\x9b", "\u202e", "\u2028", "\udcff"]
)
def test_what_a_terminal_would_obey_is_shown_as_an_escape(char: str) -> None:
    shown = printable(f"a{char}b")
    assert shown.isprintable()
    assert shown.startswith("a\\")
    assert shown.endswith("b")


@pytest.mark.parametrize("text", ["", "plain", "caf\u00e9", "\u6f22\u5b57", "a\\b"])
def test_what_is_visible_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_long_text_is_cut_to_one_line() -> None:
    assert shortened("a\n\tb  c", 10) == "a b c"
    assert shortened("x" * 11, 10) == "x" * 9 + "…"
    assert shortened("x" * 10, 10) == "x" * 10


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ("0", 0),
        ("512", 512),
        ("64K", 65536),
        ("64k", 65536),
        ("10M", 10 << 20),
        ("2G", 2 << 30),
        ("1T", 1 << 40),
        ("1GiB", 1 << 30),
        ("1GB", 1 << 30),
    ],
)
def test_a_size_is_read(text: str, bytes_: int) -> None:
    assert parse_size(text) == bytes_


@pytest.mark.parametrize("text", ["", "K", "-1", "1.5G", "1 G", "1X", "1KK", "1e3", "\u0661"])
def test_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="want a number of bytes"):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "0", "-1", "1.0", "many", "1K", "\u0661"])
def test_no_count_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="whole number"):
        parse_count(text)


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
def test_a_size_is_shown(count: int, text: str) -> None:
    assert size(count) == text
