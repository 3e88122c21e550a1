"""What a pull tells while it works: bars, lines, JSON events, or nothing.

In come the pipeline's events.  Bars are rich's, drawn on a terminal from within the callback:
no thread may run beside it, since the pipeline forks its workers.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from stacker.arrival import LayerProgress
from stacker.cli.output import print_event
from stacker.pipeline import LayersFound
from stacker.unpack import LayerUnpacked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress, TaskID

    from stacker.cli.session import Session
    from stacker.image.digest import DiffID, Digest

_REDRAW: Final = 0.1  # seconds


@contextmanager
def reporting(session: Session) -> Iterator[Callable[[object], None]]:
    """Give what the pipeline shall call with its events."""
    if session.json:
        yield _print_event if session.verbosity >= 0 else _ignore
    elif session.draws:
        with _Bars() as bars:
            yield bars.show
    else:
        yield lambda event: _tell(event, session)


def _ignore(event: object) -> None:
    del event


def _tell(event: object, session: Session) -> None:
    if isinstance(event, LayersFound):
        for diff_id in event.present:
            session.detail(f"already here {diff_id}")
    elif isinstance(event, LayerUnpacked):
        if event.record is None:
            session.detail(f"already here {event.diff_id} (another process unpacked it)")
        else:
            session.detail(f"unpacked {event.diff_id} {event.record.entries} entries")


def _print_event(event: object) -> None:
    if isinstance(event, LayersFound):
        missing = [
            {"diff_id": _text(layer.diff_id), "blob": str(layer.blob), "size": layer.size}
            for layer in event.missing
        ]
        print_event("layers-found", missing=missing, present=[str(d) for d in event.present])
    elif isinstance(event, LayerProgress):
        print_event(
            "layer-progress",
            diff_id=_text(event.diff_id),
            blob=str(event.blob),
            done=event.done,
            total=event.total,
            entries=event.entries,
        )
    elif isinstance(event, LayerUnpacked):
        entries = None if event.record is None else event.record.entries
        print_event(
            "layer-unpacked", diff_id=str(event.diff_id), blob=str(event.blob), entries=entries
        )


def _text(diff_id: DiffID | None) -> str | None:
    return None if diff_id is None else str(diff_id)


class _Bars:
    """One bar for all that is to be unpacked, and one for every layer being worked on."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

        self._progress: Progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TextColumn("{task.fields[entries]:>8} entries", style="progress.elapsed"),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._all = self._progress.add_task("", visible=False, entries=0)
        self._layers: dict[Digest, TaskID] = {}
        self._done: dict[Digest, int] = {}
        self._entries: dict[Digest, int] = {}
        self._drawn = 0.0

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, event: object) -> None:
        if isinstance(event, LayersFound):
            self._begin(event)
        elif isinstance(event, LayerProgress):
            self._advance(event)
        elif isinstance(event, LayerUnpacked):
            # Gone when done: an image may have more layers than the terminal has lines.
            self._progress.update(self._layers[event.blob], visible=False)
        if (now := time.monotonic()) - self._drawn >= _REDRAW:
            self._drawn = now
            self._progress.refresh()

    def _advance(self, event: LayerProgress) -> None:
        self._done[event.blob], self._entries[event.blob] = event.done, event.entries
        layer = self._layers[event.blob]
        self._progress.update(layer, completed=event.done, entries=event.entries, visible=True)
        self._progress.update(
            self._all, completed=sum(self._done.values()), entries=sum(self._entries.values())
        )

    def _begin(self, event: LayersFound) -> None:
        for layer in event.missing:
            name = (layer.diff_id or layer.blob).short
            self._layers[layer.blob] = self._progress.add_task(
                f"  {name}", total=layer.size, visible=False, entries=0
            )
        total = sum(layer.size for layer in event.missing)
        what = f"{len(event.missing)} layers"
        self._progress.update(self._all, description=what, total=total, visible=bool(total))
