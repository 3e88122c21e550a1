"""Turn single runs into figures: medians with their spread, rates, and the JSON of results."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.layout import Image
from benchmarks.process import Usage

FORMAT = 1
_KINDS = ("wall", "cpu", "peak_rss")

Figures = dict[str, Any]
"""One line of results: what was measured, every run, and what follows from them."""


def figures(runs: Sequence[Usage]) -> Figures:
    """Summarise runs: seconds of ``wall`` and ``cpu`` time, bytes of ``peak_rss``."""
    summed: Figures = {"repetitions": len(runs)}
    for kind in _KINDS:
        values = [getattr(run, kind) for run in runs]
        summed[kind] = {
            "median": _rounded(statistics.median(values)),
            "min": _rounded(min(values)),
            "max": _rounded(max(values)),
            "runs": [_rounded(value) for value in values],
        }
    return summed


def rates(image: Image, summed: Figures) -> Figures:
    """Return an image's size and its uncompressed rate per second."""
    seconds = summed["wall"]["median"]
    return {
        "layers": len(image.layers),
        "bytes": image.plain_bytes,
        "blob_bytes": image.blob_bytes,
        "entries": image.entries,
        "mb_per_s": _rounded(image.plain_bytes / 1e6 / seconds),
        "entries_per_s": _rounded(image.entries / seconds),
    }


def of_suite(documents: Sequence[Figures], suite: str) -> list[Figures]:
    """Return all lines of results of one suite."""
    return [line for doc in documents if doc["suite"] == suite for line in doc["results"]]


def latest(documents: Sequence[Figures]) -> list[Figures]:
    """Return the documents without the unpacking figures that a later run replaces.

    A run of the suite ``throughput`` replaces whole cases: all programs of a case ran in turns, so
    figures of two runs must not stand in one row.
    """
    ordered = sorted(documents, key=lambda document: str(document.get("date", "")))
    last: dict[tuple[object, ...], int] = {}
    for number, document in enumerate(ordered):
        if document["suite"] == "throughput":
            last |= {case(line): number for line in document["results"]}
    kept = [
        {**document, "results": _kept(document, last, number)}
        for number, document in enumerate(ordered)
    ]
    return [document for document in kept if document["results"]]


def _kept(document: Figures, last: dict[tuple[object, ...], int], number: int) -> list[Figures]:
    lines: list[Figures] = document["results"]
    if document["suite"] != "throughput":
        return lines
    return [line for line in lines if last[case(line)] == number]


def case(line: Figures) -> tuple[object, ...]:
    """Return what all programs of a round of the suite ``throughput`` have in common."""
    return tuple(line[key] for key in ("corpus", "form", "medium", "sync"))


def write(path: Path, document: Figures) -> None:
    """Write a document of results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"format": FORMAT, **document}, indent=1) + "\n")


def read(path: Path) -> Figures:
    """Read a document of results.

    :raises ValueError: the document has another format.
    """
    document: Figures = json.loads(path.read_text())
    if document.get("format") != FORMAT:
        raise ValueError(f"{path}: got format {document.get('format')}, want {FORMAT}")
    return document


def _rounded(value: float) -> float:
    return round(value) if value >= 1e5 else round(value, 4)
