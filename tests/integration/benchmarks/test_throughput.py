"""The suites throughput, growth and startup give every figure, the table and the plots.

No time is asserted: what is slow here may be fast elsewhere.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks import (
    charts,
    compress,
    figures,
    pages,
    report,
    run,
)
from benchmarks.peers import FLOOR, PEERS
from tests.support.benchmarks import WANTED, assert_figures, of_peers, results

CORPORA = ["mix", "whiteouts", "links"]
CANNOT = {("umoci", "zstd")}
"""Peers that do not know a form."""

pytestmark = WANTED


@pytest.fixture(scope="module")
def documents(cache: Path) -> list[dict[str, Any]]:
    quick = of_peers("stacker", FLOOR)
    return [
        results("throughput", cache, "--corpora", *CORPORA, "--media", "tmpfs", *of_peers()),
        results("growth", cache, "--media", "tmpfs", *quick),
        results("startup", cache, "--media", "tmpfs"),
    ]


def test_every_peer_has_every_figure(documents: list[dict[str, Any]]) -> None:
    lines = documents[0]["results"]
    peers = [peer.name for peer in PEERS if peer.is_installed()]
    cases = {(line["corpus"], line["form"], line["peer"]) for line in lines}
    assert cases == {(c, f, p) for c in CORPORA for f in compress.FORMS for p in peers}
    for line in lines:
        if (line["peer"], line["form"]) in CANNOT:
            assert line["failed"]
        else:
            assert "failed" not in line, line
            assert_figures(line)
            assert line["bytes"] > line["blob_bytes"] > 0
            assert line["entries"] > 0
            assert line["mb_per_s"] > 0
            assert line["entries_per_s"] > 0


def test_growth_covers_every_count(documents: list[dict[str, Any]]) -> None:
    lines = [line for line in documents[1]["results"] if line["peer"] == "stacker"]
    counts = [("entries", n) for n in run.SMALL_ENTRIES] + [("layers", n) for n in run.SMALL_LAYERS]
    assert [(line["corpus"], line["n"]) for line in lines] == counts
    for line in lines:
        assert_figures(line)


def test_start_up_has_every_verb(documents: list[dict[str, Any]]) -> None:
    lines = documents[2]["results"]
    assert [line["command"] for line in lines] == [
        "python3 -c pass",
        "pull, all there",
        "mount",
        "umount",
        "mount of 60 layers, tree, overlay",
        "mount of 60 layers, tree, fuse",
        "mount of 60 layers, erofs, overlay",
        "mount of 60 layers, erofs, fuse",
    ]
    for line in lines:
        assert_figures(line)


def test_the_machine_is_described_and_not_named(documents: list[dict[str, Any]]) -> None:
    for document in documents:
        assert {"cpu", "cores", "kernel", "memory"} <= document["machine"].keys()
        assert document["versions"]["stacker"]
        assert os.uname().nodename not in json.dumps(document["machine"]).split('"')


def test_table_and_plots_are_made(documents: list[dict[str, Any]], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots want matplotlib")
    written = report.write_report(documents, tmp_path)
    assert [path.name for path in written] == ["table.md", "peers.svg", "entries.svg", "layers.svg"]
    table = written[0].read_text()
    for corpus in CORPORA:
        assert f"| {corpus} | gzip | tmpfs | stacker |" in table
    for plot in written[1:]:
        assert plot.read_text().rstrip().endswith("</svg>")
    again = {path: path.read_bytes() for path in written}
    report.write_report(documents, tmp_path)
    assert {path: path.read_bytes() for path in written} == again


def test_chart_of_ratios_has_the_corpora_measured_on_both_media(
    documents: list[dict[str, Any]],
) -> None:
    lines = figures.of_suite(documents, "throughput")
    first = lines[0]["corpus"]
    on_disk = [{**line, "medium": "disk"} for line in lines if line["corpus"] == first]
    colours = dict.fromkeys((line["peer"] for line in lines), "#000000")
    chart = charts.unpacking_chart([*lines, *on_disk], colours)
    assert chart is not None
    titles = [panel.get_title() for panel in chart.axes]
    assert titles == [f"{first}, memory (tmpfs)", f"{first}, real disk"]
    assert charts.unpacking_chart(lines, colours) is None


def test_summary_has_a_row_for_every_gzip_corpus(documents: list[dict[str, Any]]) -> None:
    table = pages.summary(documents)
    for corpus in CORPORA:
        assert f"| {corpus} | tmpfs | " in table
    text = f"a\n<!-- measured: x -->\nold\n{pages.END}\nz"
    once = pages.marked(text, "x", table)
    assert table in once
    assert "old" not in once
    assert (once[0], once[-1]) == ("a", "z")
    assert pages.marked(once, "x", table) == once
    with pytest.raises(ValueError, match="want both"):
        pages.marked(text, "y", table)
