"""What a push or a copy tells while it works: bars, lines, JSON events, or nothing.

In come the events of `push` and `delivery`.  As in `progress`, bars are drawn from within the
callback, since no thread may run beside a process that forks its workers.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from stacker.cli.output import print_event
from stacker.delivery import BlobArrived, BlobProgress, BlobsFound, Delivered
from stacker.gather import MemberSent
from stacker.image.wording import quoted
from stacker.packing import LayerPacked, PackProgress
from stacker.push import LayersPlanned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from rich.progress import Progress, TaskID

    from stacker.cli.session import Session

_REDRAW: Final = 0.1  # seconds


@contextmanager
def reporting(session: Session) -> Iterator[Callable[[object], None]]:
    """Give what a push or a delivery shall call with its events."""
    if session.json:
        yield _print_event if session.verbosity >= 0 else _ignore
    elif session.draws:
        with _Bars() as bars:
            yield bars.show
    else:
        yield lambda event: _tell(event, session)


def delivered_document(delivered: Delivered) -> dict[str, object]:
    """Return what came of a delivery, for a JSON document."""
    return {
        "digest": str(delivered.root.digest),
        "media_type": delivered.root.media_type,
        "size": delivered.root.size,
        "documents": delivered.documents,
        "blobs": {how.value: count for how, count in delivered.arrivals.items()},
        "left": [
            {"digest": str(layer.digest), "urls": list(layer.urls)} for layer in delivered.left
        ],
    }


def tell_left(delivered: Delivered, session: Session) -> None:
    """Say which layers were not sent, and where they are."""
    for layer in delivered.left:
        places = ", ".join(map(quoted, layer.urls))
        session.say(f"warning: foreign layer {layer.digest} was not sent; it stays at {places}")


def _ignore(event: object) -> None:
    del event


def _tell(event: object, session: Session) -> None:
    if isinstance(event, BlobArrived):
        session.detail(f"{event.how.value} {event.digest}")
    elif isinstance(event, MemberSent):
        session.detail(f"{'sent' if event.sent else 'present'} {event.descriptor.digest}")
    elif isinstance(event, LayerPacked):
        session.detail(f"packed {event.diff_id} as {event.digest}")


def _print_event(event: object) -> None:
    if isinstance(event, LayersPlanned):
        packed = [{"diff_id": str(diff_id), "size": size} for diff_id, size in event.packed]
        print_event("layers-to-pack", layers=packed)
    elif isinstance(event, PackProgress):
        print_event("pack-progress", diff_id=str(event.diff_id), done=event.done, total=event.total)
    elif isinstance(event, LayerPacked):
        print_event(
            "layer-packed", diff_id=str(event.diff_id), digest=str(event.digest), size=event.size
        )
    elif isinstance(event, MemberSent):
        print_event("member-sent", digest=str(event.descriptor.digest), sent=event.sent)
    elif isinstance(event, BlobsFound):
        blobs = [{"digest": str(blob.digest), "size": blob.size} for blob in event.blobs]
        print_event("blobs-found", blobs=blobs)
    elif isinstance(event, BlobProgress):
        print_event("blob-progress", digest=str(event.digest), done=event.done, total=event.total)
    elif isinstance(event, BlobArrived):
        print_event("blob-arrived", digest=str(event.digest), how=event.how.value)


class _Bars:
    """A bar for the layers being packed, and one for the blobs on their way."""

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
        self._packing = self._progress.add_task("", visible=False)
        self._sending = self._progress.add_task("", visible=False)
        self._sizes: dict[object, int] = {}
        self._done: dict[object, int] = {}
        self._drawn = 0.0

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, event: object) -> None:
        if isinstance(event, LayersPlanned):
            self._begin(self._packing, f"packing {len(event.packed)} layers", dict(event.packed))
        elif isinstance(event, BlobsFound):
            sizes = {blob.digest: blob.size for blob in event.blobs}
            self._begin(self._sending, f"sending {len(sizes)} blobs", sizes)
        elif isinstance(event, PackProgress):
            self._advance(self._packing, event.diff_id, event.done)
        elif isinstance(event, BlobProgress):
            self._advance(self._sending, event.digest, event.done)
        elif isinstance(event, BlobArrived):
            self._advance(self._sending, event.digest, self._sizes.get(event.digest, 0))
        if (now := time.monotonic()) - self._drawn >= _REDRAW:
            self._drawn = now
            self._progress.refresh()

    def _begin(self, bar: TaskID, what: str, sizes: Mapping[Any, int]) -> None:
        self._sizes, self._done = {**sizes}, {}
        total = sum(sizes.values())
        self._progress.update(bar, description=what, total=total, visible=bool(total))

    def _advance(self, bar: TaskID, name: object, done: int) -> None:
        self._done[name] = done
        self._progress.update(bar, completed=sum(self._done.values()))
