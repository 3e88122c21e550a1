"""What a report of stages says sets the pace."""

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


def test_stages_are_summed_up_over_layers() -> None:
    both = report(layer("a", read=1, apply=2), layer("b", read=3))
    assert (both.seconds(stages.READ), both.seconds(stages.APPLY)) == (4, 2)


@pytest.mark.parametrize(
    ("stage", "taken"),
    [(name, 200 if name in (stages.READ, stages.HASH_BLOB) else 2000) for name in stages.STAGES],
)
def test_bytes_are_of_the_blob_before_inflating_and_of_the_tar_after(
    stage: str, taken: int
) -> None:
    assert report(layer("a"), layer("b")).bytes(stage) == taken


def test_work_that_keeps_all_processors_busy_is_bound_by_its_largest_stage() -> None:
    busy = report(layer("a", inflate=3, apply=2), layer("b", inflate=3, apply=3))
    assert not busy.is_bound_by_one_layer
    assert (busy.shared, busy.limit) == (5.5, stages.INFLATE)


def test_a_layer_whose_slowest_thread_outlasts_the_rest_sets_the_pace() -> None:
    alone = report(layer("a", inflate=2, parse=1, apply=4), layer("b", inflate=1))
    assert alone.is_bound_by_one_layer
    assert alone.longest.diff_id.hex[0] == "a"
    assert alone.longest.slowest_thread == (stages.PARSE, stages.APPLY, stages.COMMIT)
    assert alone.limit == stages.APPLY


def test_one_layer_can_not_use_more_processors_than_it_has_threads() -> None:
    spread = report(layer("a", inflate=2, hash_layer=2, apply=2), processors=64, jobs=64)
    assert spread.shared == 2


def test_one_processor_does_everything_in_turn() -> None:
    single = report(layer("a", inflate=2, apply=3), processors=1)
    assert (single.shared, single.is_bound_by_one_layer) == (5, False)
