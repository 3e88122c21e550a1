"""Authentication: challenges are parsed, and scopes of tokens are merged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stacker.registry.authentication import Challenge, merge_scopes, parse_challenges

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
def test_merged_scope_has_the_challenge_s_resource_and_our_actions(asked: str, want: str) -> None:
    assert merge_scopes(asked, WANTED) == want


def test_login_scope_adds_nothing() -> None:
    assert merge_scopes("", "") == ""
    assert merge_scopes("repository:app:pull", "") == "repository:app:pull"


BEARER = Challenge(
    "bearer", {"realm": "https://auth.example/token", "service": "s", "scope": "repository:a:pull"}
)
WRITTEN = 'Bearer realm="https://auth.example/token",service="s",scope="repository:a:pull"'


@pytest.mark.parametrize(
    ("values", "challenges"),
    [
        ([], []),
        ([WRITTEN], [BEARER]),
        ([WRITTEN.replace(",", " ,\t ").replace("Bearer", "BEARER")], [BEARER]),
        (['Basic realm="tests"'], [Challenge("basic", {"realm": "tests"})]),
        (["Basic"], [Challenge("basic")]),
        (
            ["Negotiate, Basic realm=x"],
            [Challenge("negotiate"), Challenge("basic", {"realm": "x"})],
        ),
        (
            ['Basic realm="a, b=\\"c\\"", charset=UTF-8, ' + WRITTEN],
            [Challenge("basic", {"realm": 'a, b="c"', "charset": "UTF-8"}), BEARER],
        ),
        (['Basic realm="x"', WRITTEN], [Challenge("basic", {"realm": "x"}), BEARER]),
        (['Basic REALM="x", realm="y"'], [Challenge("basic", {"realm": "x"})]),
        (['Basic realm="open'], [Challenge("basic")]),
        (['="x"', WRITTEN], [BEARER]),
    ],
)
def test_challenges_are_parsed(values: list[str], challenges: list[Challenge]) -> None:
    found = parse_challenges(values)
    assert found[: len(challenges)] == challenges


@given(st.lists(st.text(alphabet='Basic=," \\\t\x00é', max_size=60)))
def test_any_header_is_parsed_without_an_exception(values: list[str]) -> None:
    for challenge in parse_challenges(values):
        assert challenge.scheme == challenge.scheme.lower()


def test_long_header_is_parsed_in_linear_time() -> None:
    assert len(parse_challenges(['a="' + "\\" * 1_000_000])) <= 1
