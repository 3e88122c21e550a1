"""Filters of List: containerd's grammar, and what each operator matches."""

from __future__ import annotations

import pytest

from stacker.containerd.filters import parsed
from stacker.containerd.status import Code, StatusError

OBJECT = {
    ("name",): "default/1/x",
    ("kind",): "active",
    ("parent",): "",
    ("labels", "containerd.io/snapshot.ref"): "sha256:ab",
    ("labels", "tab"): "a\tb",
}


def matches(*texts: str) -> bool:
    return parsed(texts)(OBJECT.get)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "kind==active",
        " kind == active , name != y",
        "kind",
        "parent",
        'parent==""',
        'labels."containerd.io/snapshot.ref"==sha256:ab',
        'labels."containerd.io/snapshot.ref"',
        'labels.tab=="a\\tb"',
        'labels.tab=="a\\x09b"',
        'labels.tab=="a\\011b"',
        "name~=/^default\\/[0-9]+/",
        "name~=|/x$|",
        "name~=^default",
        "labels.absent!=x",
        "labels.absent~=^$",
    ],
)
def test_a_filter_matches(text: str) -> None:
    assert matches(text)


@pytest.mark.parametrize(
    "text",
    [
        "kind==view",
        "kind==active,name==y",
        "labels.absent",
        "labels.absent==x",
        'labels.absent!=""',
        "name~=/^other/",
        "name~=[",
    ],
)
def test_a_filter_does_not_match(text: str) -> None:
    assert not matches(text)


def test_one_of_several_filters_suffices() -> None:
    assert matches("kind==view", "kind==active")
    assert not matches("kind==view", "kind==committed")


@pytest.mark.parametrize(
    "text",
    [
        *("==x", "kind=active", "kind==", "kind==a b", "kind==a,", "kind..x", "/kind/==x"),
        *('kind=="a', 'kind=="a\\q"', "kind==/a/", "kind===x", "kind !", 'kind=="\\U00110000"'),
    ],
)
def test_a_malformed_filter_is_an_invalid_argument(text: str) -> None:
    with pytest.raises(StatusError, match="malformed filter") as raised:
        parsed([text])
    assert raised.value.code == Code.INVALID_ARGUMENT
