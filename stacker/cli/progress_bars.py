"""Progress bars on a terminal.

Events come in; bars of rich are drawn on stderr until the context ends.
No thread draws them: workers are forked, and a fork must not copy a second thread's locks.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, assert_never

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from stacker.events import (
    BlobProgress,
    BlobsFound,
    BlobStored,
    ExportProgress,
    ImageCommitted,
    ImagePulled,
    LayerPacked,
    LayerProgress,
    LayerRestored,
    LayersFound,
    LayersToPack,
    LayerTimed,
    LayerUnpacked,
    MemberSent,
    PackProgress,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.progress import TaskID

    from stacker.events import Event
    from stacker.image.digest import DiffID, Digest

REDRAW_INTERVAL: Final = 0.1
"""Seconds between two drawings."""


class Bars:
    """Progress bars that are visible until the context ends.

    A pull has a bar for all layers and a bar for each layer that a worker unpacks.
    A push or a copy has a bar for the layers to pack and a bar for the blobs to send.
    An export has a bar for its file.
    """

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TextColumn("{task.fields[entries]}", style="progress.elapsed"),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._unpacking = _Total(self._progress)
        self._packing = _Total(self._progress)
        self._sending = _Total(self._progress)
        self._exporting = self._progress.add_task("exporting", visible=False, entries="")
        self._layers: dict[Digest, TaskID] = {}
        self._drawn = 0.0

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Update the bars with an event, and draw them if the last drawing is old enough."""
        self._update(event)
        if (now := time.monotonic()) - self._drawn >= REDRAW_INTERVAL:
            self._drawn = now
            self._progress.refresh()

    def _update(self, event: Event) -> None:  # noqa: C901 - a case each
        match event:
            case LayersFound():
                self._begin_layers(event)
            case LayerProgress():
                self._advance_layer(event)
            case LayerUnpacked():
                # An image may have more layers than the terminal has lines.
                self._progress.update(self._layers[event.blob], visible=False)
            case LayersToPack(layers):
                self._packing.begin(f"packing {len(layers)} layers", layers)
            case PackProgress(diff_id, done):
                self._packing.advance(diff_id, done)
            case ExportProgress(done, total):
                self._progress.update(self._exporting, completed=done, total=total, visible=True)
            case BlobsFound(blobs):
                sizes = [(blob.digest, blob.size) for blob in blobs]
                self._sending.begin(f"sending {len(sizes)} blobs", sizes)
            case BlobProgress(digest, done):
                self._sending.advance(digest, done)
            case BlobStored(digest):
                self._sending.finish(digest)
            case LayerPacked() | MemberSent() | LayerTimed() | LayerRestored():
                pass
            case ImagePulled() | ImageCommitted():
                pass
            case _:
                assert_never(event)

    def _begin_layers(self, event: LayersFound) -> None:
        sizes = [(layer.blob, layer.size) for layer in event.missing]
        self._unpacking.begin(f"{len(sizes)} layers", sizes, entries=0)
        for layer in event.missing:
            self._layers[layer.blob] = self._progress.add_task(
                f"  {layer.name.short}", total=layer.size, visible=False, entries=_entries(0)
            )

    def _advance_layer(self, event: LayerProgress) -> None:
        self._progress.update(
            self._layers[event.blob],
            completed=event.done,
            entries=_entries(event.entries),
            visible=True,
        )
        self._unpacking.advance(event.blob, event.done, event.entries)


class _Total:
    """One bar for the sum of several layers or blobs; invisible until `begin`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bar = progress.add_task("", visible=False, entries="")
        self._sizes: dict[DiffID | Digest, int] = {}
        self._done: dict[DiffID | Digest, int] = {}
        self._entries: dict[DiffID | Digest, int] = {}

    def begin(
        self,
        text: str,
        sizes: Iterable[tuple[DiffID | Digest, int]],
        entries: int | None = None,
    ) -> None:
        self._sizes, self._done, self._entries = dict(sizes), {}, {}
        total = sum(self._sizes.values())
        self._progress.update(
            self._bar, description=text, total=total, visible=bool(total), entries=_entries(entries)
        )

    def advance(self, name: DiffID | Digest, done: int, entries: int | None = None) -> None:
        self._done[name] = done
        if entries is not None:
            self._entries[name] = entries
        total = sum(self._entries.values()) if self._entries else None
        self._progress.update(
            self._bar, completed=sum(self._done.values()), entries=_entries(total)
        )

    def finish(self, name: DiffID | Digest) -> None:
        self.advance(name, self._sizes.get(name, 0))


def _entries(count: int | None) -> str:
    return "" if count is None else f"{count:>8} entries"
