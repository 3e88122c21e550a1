"""Events: plain values that travel between processes, and how often progress is reported."""

from __future__ import annotations

import pickle
from typing import get_args

import pytest

from stacker import events
from stacker.events import Throttle
from tests.support.events import EVENTS

MIB = 1 << 20


def test_every_kind_of_event_has_an_example() -> None:
    assert {type(event) for event in EVENTS} == set(get_args(events.Event))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_survives_pickling(event: events.Event) -> None:
    copy = pickle.loads(pickle.dumps(event))
    assert (type(copy), copy) == (type(event), event)


def due(throttle: Throttle, *states: tuple[int, int]) -> list[bool]:
    return [throttle.is_due(done, entries) for done, entries in states]


def test_progress_is_due_after_each_mebibyte() -> None:
    states = [(1, 0), (MIB - 1, 0), (MIB, 0), (MIB + 1, 0), (2 * MIB - 1, 0), (3 * MIB, 0)]
    assert due(Throttle(), *states) == [False, False, True, False, False, True]


def test_progress_is_due_after_each_thousand_entries() -> None:
    states = [(1, 999), (1, 1000), (1, 1999), (1, 2500), (1, 3000)]
    assert due(Throttle(), *states) == [False, True, False, True, False]


def test_one_report_counts_for_bytes_and_entries() -> None:
    assert due(Throttle(), (MIB, 900), (MIB, 1800), (MIB, 1900)) == [True, False, True]


def test_the_end_is_due_if_the_total_is_known() -> None:
    assert due(Throttle(10), (9, 0), (10, 0)) == [False, True]
    assert due(Throttle(), (9, 0), (10, 0)) == [False, False]
