"""What a push or a copy tells while it works: bars, lines, JSON events, or nothing.

In come the events of `push` and `delivery`; how and whether they are shown is chosen in `bars`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stacker.cli.output import print_event
from stacker.cli.progress import Bars, reported
from stacker.image.document import quoted
from stacker.jobs.pack_layer import LayerPacked, PackProgress
from stacker.operations.copy import BlobArrived, BlobProgress, BlobsFound, Delivered
from stacker.operations.index import MemberSent
from stacker.operations.push import LayersPlanned

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from rich.progress import TaskID

    from stacker.cli.session import Session


def reporting(session: Session) -> AbstractContextManager[Callable[[object], None]]:
    """Give what a push or a delivery shall call with its events."""
    return reported(session, bars=_Bars, tell=_tell, print_event=_print_event)


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


class _Bars(Bars):
    """A bar for the layers being packed, and one for the blobs on their way."""

    def __init__(self) -> None:
        super().__init__()
        self._packing = self._progress.add_task("", visible=False)
        self._sending = self._progress.add_task("", visible=False)
        self._sizes: dict[object, int] = {}
        self._done: dict[object, int] = {}

    def _take(self, event: object) -> None:
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

    def _begin(self, bar: TaskID, what: str, sizes: Mapping[Any, int]) -> None:
        self._sizes, self._done = {**sizes}, {}
        total = sum(sizes.values())
        self._progress.update(bar, description=what, total=total, visible=bool(total))

    def _advance(self, bar: TaskID, name: object, done: int) -> None:
        self._done[name] = done
        self._progress.update(bar, completed=sum(self._done.values()))
