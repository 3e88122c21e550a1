"""What a pull tells while it works: bars, lines, JSON events, or nothing.

In come the pipeline's events; how and whether they are shown is chosen in `bars`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.cli.output import print_event
from stacker.cli.progress import Bars, reported
from stacker.image.digest import DiffID
from stacker.jobs.tasks import LayerProgress, LayerUnpacked
from stacker.operations.pull import LayersFound

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from rich.progress import TaskID

    from stacker.cli.session import Session
    from stacker.image.digest import Digest


def reporting(session: Session) -> AbstractContextManager[Callable[[object], None]]:
    """Give what the pipeline shall call with its events."""
    return reported(session, bars=_Bars, tell=_tell, print_event=_print_event)


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
            {"diff_id": _diff_id(layer.name), "blob": str(layer.blob), "size": layer.size}
            for layer in event.missing
        ]
        print_event("layers-found", missing=missing, present=[str(d) for d in event.present])
    elif isinstance(event, LayerProgress):
        print_event(
            "layer-progress",
            diff_id=_diff_id(event.name),
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


def _diff_id(name: DiffID | Digest) -> str | None:
    return str(name) if isinstance(name, DiffID) else None


class _Bars(Bars):
    """One bar for all that is to be unpacked, and one for every layer being worked on."""

    def __init__(self) -> None:
        from rich.progress import TextColumn

        super().__init__(TextColumn("{task.fields[entries]:>8} entries", style="progress.elapsed"))
        self._all = self._progress.add_task("", visible=False, entries=0)
        self._layers: dict[Digest, TaskID] = {}
        self._done: dict[Digest, int] = {}
        self._entries: dict[Digest, int] = {}

    def _take(self, event: object) -> None:
        if isinstance(event, LayersFound):
            self._begin(event)
        elif isinstance(event, LayerProgress):
            self._advance(event)
        elif isinstance(event, LayerUnpacked):
            # Gone when done: an image may have more layers than the terminal has lines.
            self._progress.update(self._layers[event.blob], visible=False)

    def _advance(self, event: LayerProgress) -> None:
        self._done[event.blob], self._entries[event.blob] = event.done, event.entries
        layer = self._layers[event.blob]
        self._progress.update(layer, completed=event.done, entries=event.entries, visible=True)
        self._progress.update(
            self._all, completed=sum(self._done.values()), entries=sum(self._entries.values())
        )

    def _begin(self, event: LayersFound) -> None:
        for layer in event.missing:
            self._layers[layer.blob] = self._progress.add_task(
                f"  {layer.name.short}", total=layer.size, visible=False, entries=0
            )
        total = sum(layer.size for layer in event.missing)
        what = f"{len(event.missing)} layers"
        self._progress.update(self._all, description=what, total=total, visible=bool(total))
