"""The WWW-Authenticate header is read by its grammar."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stacker.registry.authentication import Challenge, parse_challenges

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
def test_challenges_are_read(values: list[str], challenges: list[Challenge]) -> None:
    found = parse_challenges(values)
    assert found[: len(challenges)] == challenges


@given(st.lists(st.text(alphabet='Basic=," \\\t\x00é', max_size=60)))
def test_nothing_makes_the_parser_fail(values: list[str]) -> None:
    for challenge in parse_challenges(values):
        assert challenge.scheme == challenge.scheme.lower()


def test_a_long_header_takes_no_longer_than_its_length() -> None:
    assert len(parse_challenges(['a="' + "\\" * 1_000_000])) <= 1
