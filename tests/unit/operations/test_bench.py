"""The figures of a benchmark, and the stage that limits a pull."""

from __future__ import annotations

import pytest

from stacker.image.digest import DiffID
from stacker.operations.bench import LayerFigures, Report
from stacker.stream import stages


def layer(name: str, **seconds: float) -> LayerFigures:
    spent = dict.fromkeys(stages.STAGES, 0.0)
    spent |= {key.replace("_", " "): value for key, value in seconds.items()}
    return LayerFigures(DiffID("sha256", name * 64), 10, 100, 1000, spent)


def report(*layers: LayerFigures, processors: int = 2, jobs: int = 2) -> Report:
    return Report(layers, pull=1.0, processors=processors, jobs=jobs, runs=1)


def test_seconds_of_a_stage_are_summed_over_layers() -> None:
    both = report(layer("a", read=1, apply=2), layer("b", read=3))
    assert (both.seconds(stages.READ), both.seconds(stages.APPLY)) == (4, 2)


@pytest.mark.parametrize(
    ("stage", "taken"),
    [(name, 200 if name in (stages.READ, stages.HASH_BLOB) else 2000) for name in stages.STAGES],
)
def test_bytes_are_of_the_blob_before_inflate_and_of_the_tar_after(stage: str, taken: int) -> None:
    assert report(layer("a"), layer("b")).bytes(stage) == taken


def test_busy_processors_are_limited_by_the_longest_stage() -> None:
    busy = report(layer("a", inflate=3, apply=2), layer("b", inflate=3, apply=3))
    assert not busy.is_bound_by_one_layer
    assert (busy.shared, busy.limit) == (5.5, stages.INFLATE)


def test_layer_with_the_slowest_thread_limits_the_pull() -> None:
    alone = report(layer("a", inflate=2, parse=1, apply=4), layer("b", inflate=1))
    assert alone.is_bound_by_one_layer
    assert alone.longest.diff_id.hex[0] == "a"
    assert alone.longest.slowest_thread == (stages.PARSE, stages.APPLY, stages.COMMIT)
    assert alone.limit == stages.APPLY


def test_one_layer_uses_at_most_one_processor_for_each_thread() -> None:
    spread = report(layer("a", inflate=2, hash_layer=2, apply=2), processors=64, jobs=64)
    assert spread.shared == 2


def test_one_processor_runs_all_stages_in_turn() -> None:
    single = report(layer("a", inflate=2, apply=3), processors=1)
    assert (single.shared, single.is_bound_by_one_layer) == (5, False)
