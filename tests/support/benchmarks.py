"""Run suites of the benchmarks, and check their figures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import pytest

from benchmarks import (
    figures,
    run,
)
from benchmarks.peers import PEERS

WANTED: Final = [
    pytest.mark.skipif(os.geteuid() != 0, reason="peers and trusted.* xattrs want root"),
    pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no tmpfs at /dev/shm"),
]
"""The marks of a test that measures."""


def results(suite: str, cache: Path, *arguments: str) -> dict[str, Any]:
    out = cache / f"{suite}.json"
    common = ["--size", "small", "--repetitions", "1", "--cache", str(cache), "--out", str(out)]
    run.main([suite, *common, *arguments])
    return figures.read(out)


def of_peers(*names: str) -> list[str]:
    installed = [peer.name for peer in PEERS if peer.is_installed()]
    chosen = [name for name in names or installed if name in installed]
    return ["--peers", *chosen]


def assert_figures(line: dict[str, Any]) -> None:
    for kind in ("wall", "cpu", "peak_rss"):
        figure = line[kind]
        assert figure["min"] <= figure["median"] <= figure["max"]
        assert len(figure["runs"]) == line["repetitions"]
    assert line["wall"]["median"] > 0
    assert line["peak_rss"]["median"] > 1 << 20
