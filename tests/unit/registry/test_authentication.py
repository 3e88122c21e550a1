"""What a token is asked to allow."""

from __future__ import annotations

import pytest

from stacker.registry.authentication import merge_scopes

WANTED = "repository:app:pull,push"


@pytest.mark.parametrize(
    ("asked", "want"),
    [
        ("", WANTED),
        ("repository:app:pull", WANTED),
        ("repository:app:pull,push", WANTED),
        ("repository:app:delete", "repository:app:delete,pull,push"),
        ("repository:other:pull repository:app:pull", f"repository:other:pull {WANTED}"),
        ("repository:library/app:pull", "repository:library/app:pull"),
        ("word", "word"),
    ],
)
def test_the_challenge_names_the_objects_and_we_the_actions(asked: str, want: str) -> None:
    assert merge_scopes(asked, WANTED) == want


def test_a_login_wants_nothing_in_particular() -> None:
    assert merge_scopes("", "") == ""
    assert merge_scopes("repository:app:pull", "") == "repository:app:pull"
