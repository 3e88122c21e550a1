"""What a pull tells while it works: bars, lines, JSON events, or nothing.

In come the pipeline's events.  Bars are rich's, drawn on a terminal from within the callback:
no thread may run beside it, since the pipeline forks its workers.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from stacker.cli.output import print_event
from stacker.pipeline import LayersFound
from stacker.unpack import LayerProgress, LayerUnpacked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress, TaskID

    from stacker.cli.session import Session
    from stacker.image.digest import DiffID

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
        missing = [{"diff_id": str(diff_id), "size": size} for diff_id, size in event.missing]
        print_event("layers-found", missing=missing, present=[str(d) for d in event.present])
    elif isinstance(event, LayerProgress):
        print_event(
            "layer-progress", diff_id=str(event.diff_id), done=event.done, total=event.total
        )
    elif isinstance(event, LayerUnpacked):
        entries = None if event.record is None else event.record.entries
        print_event("layer-unpacked", diff_id=str(event.diff_id), entries=entries)


class _Bars:
    """One bar for all that is to be unpacked, and one for every layer being worked on."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

        self._progress: Progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._all = self._progress.add_task("", visible=False)
        self._layers: dict[DiffID, TaskID] = {}
        self._done: dict[DiffID, int] = {}
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
            self._done[event.diff_id] = event.done
            layer = self._layers[event.diff_id]
            self._progress.update(layer, completed=event.done, visible=True)
            self._progress.update(self._all, completed=sum(self._done.values()))
        elif isinstance(event, LayerUnpacked):
            # Gone when done: an image may have more layers than the terminal has lines.
            self._progress.update(self._layers[event.diff_id], visible=False)
        if (now := time.monotonic()) - self._drawn >= _REDRAW:
            self._drawn = now
            self._progress.refresh()

    def _begin(self, event: LayersFound) -> None:
        for diff_id, size in event.missing:
            self._layers[diff_id] = self._progress.add_task(
                f"  {diff_id.short}", total=size, visible=False
            )
        total = sum(size for _, size in event.missing)
        what = f"{len(event.missing)} layers"
        self._progress.update(self._all, description=what, total=total, visible=bool(total))
