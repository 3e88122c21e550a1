"""The simulation of a fleet: its model on cases that can be worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import fleet, fleet_tables
from benchmarks.fleet_images import Assumptions, Catalogue, Layer, Stack

BASE, OTHER_BASE, APP = Layer(1, 11, 100.0), Layer(2, 12, 100.0), Layer(3, 13, 10.0)
ONE_NODE = np.ones((1, 1), bool)


def lacked(before: Stack, after: Stack, *, by_diff_id: bool) -> tuple[float, float]:
    """Return the bytes that one node fetches, and those that it unpacks."""
    event = fleet.Event("", [before], ONE_NODE, [after], ONE_NODE)
    fetched, unpacked = fleet.lacked(event, by_diff_id=by_diff_id)
    return float(fetched.sums[0]), float(unpacked.sums[0])


@pytest.mark.parametrize(
    ("after", "by_digest_and_chain", "by_diff_id"),
    [
        ((BASE, APP), (0, 0), (0, 0)),
        ((OTHER_BASE, APP), (100, 110), (100, 100)),
        ((BASE, APP._replace(blob=99)), (10, 0), (0, 0)),
        ((BASE, APP, Layer(4, 14, 1.0)), (1, 1), (1, 1)),
    ],
    ids=["equal", "another base", "compressed again", "one layer more"],
)
def test_a_node_fetches_and_unpacks_what_its_store_does_not_recognise(
    after: Stack, by_digest_and_chain: tuple[float, float], by_diff_id: tuple[float, float]
) -> None:
    before = (BASE, APP)
    assert lacked(before, after, by_diff_id=False) == by_digest_and_chain
    assert lacked(before, after, by_diff_id=True) == by_diff_id


def test_transfers_share_a_link_until_the_small_ones_end() -> None:
    ends = fleet.shared(np.array([30.0, 10.0, 0.0]), each=100, together=10)
    assert ends.tolist() == [4, 2, 0]


@given(
    sums=st.lists(st.floats(0, 1e9), min_size=1, max_size=50),
    each=st.floats(1, 1e6),
    together=st.floats(1, 1e6),
)
def test_transfers_end_no_sooner_than_each_link_permits(
    sums: list[float], each: float, together: float
) -> None:
    ends = fleet.shared(np.array(sums), each, together)
    assert (ends * (1 + 1e-9) >= np.array(sums) / each).all()
    assert ends.max() * (1 + 1e-9) >= sum(sums) / together


def test_a_mirror_reduces_what_the_registry_sends_to_a_few_copies() -> None:
    assumed = Assumptions(images=4, pods=2, copies=3)
    event = next(fleet.events(assumed, 100))
    fetched, _ = fleet.lacked(event, by_diff_id=True)
    direct, _ = fleet.fetching(fetched, assumed, is_mirrored=False)
    mirrored, _ = fleet.fetching(fetched, assumed, is_mirrored=True)
    layers = {layer for stack in event.stacks for layer in stack}
    assert direct == pytest.approx(fetched.sums.sum())
    assert mirrored == pytest.approx(3 * sum(layer.size for layer in layers))


def test_new_versions_of_images_change_the_layers_that_the_event_names() -> None:
    catalogue = Catalogue(
        Assumptions(new_dependencies=0, equal_after_rebuild=1, compressed_again=0)
    )
    first = catalogue.stacks()
    for old, new in zip(first, catalogue.rolled_out(first), strict=True):
        assert new[:-2] == old[:-2]
        assert {layer.diff_id for layer in new[-2:]}.isdisjoint(layer.diff_id for layer in old)
    for old, new in zip(first, catalogue.rebuilt(first), strict=True):
        assert new[0].diff_id != old[0].diff_id
        assert new[1:] == old[1:]


def measured(tmp_path: Path) -> list[Path]:
    """Return results of round numbers on a disk, for all that a simulation needs."""
    total = {"corpus": "mix", "form": "gzip", "medium": "disk", "sync": False}
    size = {"bytes": 4 * 10**9, "blob_bytes": 10**9}
    seconds = {"containerd": 40, "stacker": 20, "stacker (erofs)": 4}
    throughput = [
        {**total, **size, "peer": peer, "wall": {"median": wall}, "cpu": {"median": 2 * wall}}
        for peer, wall in seconds.items()
    ]
    forms = [
        {"corpus": "mix", "medium": "disk", "stored": stored, "disk_bytes": size["bytes"]}
        for stored in ("tree", "erofs", "igzip | tar")
    ]
    paths = []
    for suite, lines in (("throughput", throughput), ("forms", forms)):
        paths.append(tmp_path / f"{suite}.json")
        paths[-1].write_text(json.dumps({"format": 1, "suite": suite, "results": lines}))
    return paths


def simulated(tmp_path: Path, name: str) -> dict[str, Any]:
    out = tmp_path / name
    fleet.main([*map(str, measured(tmp_path)), "--nodes", "20", "--out", str(out)])
    document: dict[str, Any] = json.loads(out.read_text())
    return document


def test_equal_figures_give_equal_fleets_and_tables(tmp_path: Path) -> None:
    document = simulated(tmp_path, "first.json")
    assert document == simulated(tmp_path, "second.json")
    assert len(document["results"]) == 5 * 3 * 2
    assert [engine["seconds"] * 1e9 for engine in document["engines"]] == [10, 5, 1]
    table = fleet_tables.results([document])
    assert len(table.splitlines()) == 2 + len(document["results"])
    assert set(document["assumptions"]) == set(fleet_tables.MEANINGS)


def test_a_faster_unpack_never_starts_the_last_pod_later(tmp_path: Path) -> None:
    lines = simulated(tmp_path, "fleet.json")["results"]
    last = {(line["event"], line["mirror"], line["engine"]): line["last_pod"] for line in lines}
    for (event, mirror, engine), seconds in last.items():
        if engine == "stacker, erofs":
            assert (
                seconds <= last[event, mirror, "stacker, tree"] <= last[event, mirror, "containerd"]
            )
