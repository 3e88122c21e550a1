"""Events as JSON documents, as lines, and as bars."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from stacker.cli.progress import print_event, report_progress
from stacker.cli.session import Session
from stacker.events import (
    Event,
    ImageCommitted,
    ImagePulled,
    LayerRestored,
    LayersFound,
    LayerTimed,
    MissingLayer,
)
from tests.support.command import conforming
from tests.support.events import BLOB, DIFF_ID, EVENTS

WITHOUT_DOCUMENT = (LayerTimed, LayerRestored, ImagePulled, ImageCommitted)


def session(*, verbosity: int = 0, json: bool = False) -> Session:
    return Session(Path("/store"), verbosity, json=json)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_printed_event_conforms_to_the_schema(
    event: Event, capsys: pytest.CaptureFixture[str]
) -> None:
    print_event(event)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == (0 if isinstance(event, WITHOUT_DOCUMENT) else 1)
    for line in lines:
        conforming(json.loads(line))


def test_a_layer_of_schema_1_has_no_diff_id(capsys: pytest.CaptureFixture[str]) -> None:
    print_event(LayersFound((MissingLayer(BLOB, BLOB, 10), MissingLayer(DIFF_ID, BLOB, 10)), ()))
    missing = json.loads(capsys.readouterr().out)["missing"]
    assert [layer["diff_id"] for layer in missing] == [None, str(DIFF_ID)]


@pytest.mark.parametrize(
    ("reporter", "out", "err"),
    [
        (session(json=True), 11, 1),
        (session(json=True, verbosity=-1), 0, 0),
        (session(), 0, 1),
        (session(verbosity=1), 0, 6),
        (session(verbosity=-1), 0, 0),
    ],
    ids=["json", "quiet json", "plain", "verbose", "quiet"],
)
def test_the_session_decides_where_events_are_printed(
    reporter: Session, out: int, err: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with report_progress(reporter) as emit:
        for event in EVENTS:
            emit(event)
    printed = capsys.readouterr()
    assert (printed.out.count("\n"), printed.err.count("\n")) == (out, err)


def test_bars_are_drawn_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("stacker.cli.progress_bars.REDRAW_INTERVAL", 0.0)
    with report_progress(session()) as emit:
        for event in EVENTS:
            emit(event)
    drawn = capsys.readouterr().err
    for text in ("2 layers", DIFF_ID.short, "packing 1 layers", "sending 1 blobs", "2 entries"):
        assert text in drawn
