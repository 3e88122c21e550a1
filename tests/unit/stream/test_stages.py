"""The time of each stage."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stacker.stream import stages
from stacker.stream.stages import APPLY, COMMIT, INFLATE, NO_OBSERVER, PARSE, READ, StageClock


class Time:
    """A fake clock that a test advances."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(stages, "perf_counter", lambda: self.now)

    def takes(self, seconds: float, items: Iterator[int]) -> Iterator[int]:
        for item in items:
            self.now += seconds
            yield item


def test_time_of_a_stage_excludes_earlier_stages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    time = Time(monkeypatch)
    clock = StageClock()
    read = clock.iterate(READ, time.takes(1, iter(range(4))))
    inflated = clock.iterate(INFLATE, time.takes(10, read))
    parsed = clock.iterate(PARSE, time.takes(100, inflated))
    with clock.measure(APPLY):
        for item in parsed:
            time.now += 1000
            assert item < 4
    time.now += 7  # outside of all stages
    with clock.measure(COMMIT):
        time.now += 0.5
    assert clock.seconds == {
        **dict.fromkeys(stages.STAGES, 0.0),
        READ: 4,
        INFLATE: 40,
        PARSE: 400,
        APPLY: 4000,
        COMMIT: 0.5,
    }


def test_failed_stage_stops_its_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time(monkeypatch)
    clock = StageClock()

    def failing() -> Iterator[int]:
        time.now += 1
        raise ValueError
        yield 0

    with clock.measure(APPLY):
        with pytest.raises(ValueError):
            next(clock.iterate(READ, failing()))
        time.now += 10
    assert (clock.seconds[READ], clock.seconds[APPLY]) == (1, 10)


def test_no_observer_returns_the_same_iterator() -> None:
    items = iter([1])
    assert NO_OBSERVER.iterate(READ, items) is items
    with NO_OBSERVER.measure(APPLY):
        assert not NO_OBSERVER.single_thread
