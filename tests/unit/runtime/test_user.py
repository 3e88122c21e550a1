"""USER by name and number, in the image's own files."""

from __future__ import annotations

from pathlib import Path

import pytest

from stacker.errors import NotFoundError, UsageError
from stacker.runtime.root import Root
from stacker.runtime.user import ID_LIMIT, User, find_user


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("", User(0, 0, (), "/root")),
        ("app", User(1000, 1001, (10, 44), "/home/app")),
        ("1000", User(1000, 1001, (), "/home/app")),
        ("01000", User(1000, 1001, (), "/home/app")),
        ("4711", User(4711, 0, (), "/")),
        ("app:wheel", User(1000, 10, (), "/home/app")),
        ("app:5", User(1000, 5, (), "/home/app")),
        ("4711:wheel", User(4711, 10, (), "/")),
        (f"{ID_LIMIT}:{ID_LIMIT}", User(ID_LIMIT, ID_LIMIT, (), "/")),
    ],
)
def test_user_of_each_form(root: Root, text: str, user: User) -> None:
    assert find_user(text, root) == user


def test_a_number_needs_no_user_database(root: Root, directory: Path) -> None:
    for name in ("passwd", "group"):
        (directory / "etc" / name).unlink()
    assert find_user("7:8", root) == User(7, 8)
    assert find_user("", root) == User()


@pytest.mark.parametrize("text", ["nobody", "app:nogroup", "broken line", "-1", "1e3", "٣"])
def test_a_missing_user_or_group_is_an_error(root: Root, text: str) -> None:
    with pytest.raises(NotFoundError, match=r"no such (user|group)"):
        find_user(text, root)


@pytest.mark.parametrize(
    "text", [str(ID_LIMIT + 1), "4294967295", "9" * 5000, f"0:{1 << 32}", "huge", "app:huge"]
)
def test_an_id_out_of_range_is_an_error(root: Root, text: str) -> None:
    with pytest.raises(UsageError, match="ID out of range"):
        find_user(text, root)


@pytest.mark.parametrize("text", [":", "app:", ":wheel", "a:b:c"])
def test_a_malformed_user_is_an_error(root: Root, text: str) -> None:
    with pytest.raises(UsageError, match="malformed user"):
        find_user(text, root)
