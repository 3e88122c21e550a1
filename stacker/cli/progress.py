"""Report a pull, push, copy or export while it runs: as bars, as lines, as JSON, or not at all.

Events come in from an operation; text goes out on stderr, and JSON on stdout.
Bars load rich, so they have a module of their own.  An event is printed in the thread that emits
it: workers are forked, and a fork must not copy a second thread's locks.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, assert_never

from stacker.cli import output
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
from stacker.image.digest import DiffID

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stacker.cli.session import Session
    from stacker.events import Emit, Event
    from stacker.image.digest import Digest

_Kind = TypeVar("_Kind")


@contextmanager
def report_progress(session: Session) -> Iterator[Emit]:
    """Yield the function that reports events, in the form that the session's options select."""
    if session.draws:
        from stacker.cli.progress_bars import Bars

        with Bars() as bars:
            yield partial(_report, session, bars.show)
    elif session.json:
        yield partial(_report, session, print_event if session.verbosity >= 0 else _ignore)
    else:
        yield partial(_report, session, partial(_print_line, session))


def _report(session: Session, show: Emit, event: Event) -> None:
    session.notice(event)
    show(event)


def keeping(kind: type[_Kind], found: list[_Kind], emit: Emit) -> Emit:
    """Return a function that reports events, and adds those of a kind to a list."""

    def report(event: Event) -> None:
        if isinstance(event, kind):
            found.append(event)
        emit(event)

    return report


def print_event(event: Event) -> None:
    """Print an event as a JSON document on one line."""
    if document := _document(event):
        kind, fields = document
        output.print_event(kind, **fields)


def _ignore(event: Event) -> None:
    del event


def _print_line(session: Session, event: Event) -> None:
    for line in _lines(event):
        session.detail(line)


def _lines(event: Event) -> Iterator[str]:
    match event:
        case LayersFound():
            yield from (f"already in the store: layer {diff_id}" for diff_id in event.present)
        case LayerUnpacked(diff_id, _, record) if record:
            yield f"unpacked layer {diff_id}: {record.entries} entries"
        case LayerUnpacked(diff_id):
            yield f"unpacked by another process: layer {diff_id}"
        case LayerPacked(diff_id, digest):
            yield f"packed layer {diff_id} as {digest}"
        case BlobStored(digest, transfer):
            yield f"{transfer.value} {digest}"
        case MemberSent(descriptor, sent):
            yield f"{'sent' if sent else 'present'} {descriptor.digest}"
        case LayerProgress() | LayersToPack() | PackProgress() | BlobsFound() | BlobProgress():
            pass
        case LayerTimed() | ExportProgress() | ImagePulled() | ImageCommitted() | LayerRestored():
            pass
        case _:
            assert_never(event)


def _document(event: Event) -> tuple[str, dict[str, Any]] | None:  # noqa: C901, PLR0911 - a case each
    """Return the kind and the fields of an event's JSON document, or None if it has none."""
    match event:
        case LayersFound():
            return "layers-found", _layers_found(event)
        case LayerProgress():
            progress = {"done": event.done, "total": event.total, "entries": event.entries}
            name = {"diff_id": _diff_id(event.name), "blob": str(event.blob)}
            return "layer-progress", {**name, **progress}
        case LayerUnpacked():
            name = {"diff_id": str(event.diff_id), "blob": str(event.blob)}
            return "layer-unpacked", {**name, "entries": event.record and event.record.entries}
        case LayersToPack():
            layers = [{"diff_id": str(diff_id), "size": size} for diff_id, size in event.layers]
            return "layers-to-pack", {"layers": layers}
        case PackProgress(diff_id, done, total):
            return "pack-progress", {"diff_id": str(diff_id), "done": done, "total": total}
        case LayerPacked(diff_id, digest, size):
            name = {"diff_id": str(diff_id), "digest": str(digest)}
            return "layer-packed", {**name, "size": size}
        case ExportProgress(done, total):
            return "export-progress", {"done": done, "total": total}
        case BlobsFound():
            blobs = [{"digest": str(blob.digest), "size": blob.size} for blob in event.blobs]
            return "blobs-found", {"blobs": blobs}
        case BlobProgress(digest, done, total):
            return "blob-progress", {"digest": str(digest), "done": done, "total": total}
        case BlobStored(digest, transfer):
            return "blob-arrived", {"digest": str(digest), "how": transfer.value}
        case MemberSent(descriptor, sent):
            return "member-sent", {"digest": str(descriptor.digest), "sent": sent}
        case LayerTimed() | ImagePulled() | ImageCommitted() | LayerRestored():
            return None
    assert_never(event)


def _layers_found(event: LayersFound) -> dict[str, Any]:
    missing = [
        {"diff_id": _diff_id(layer.name), "blob": str(layer.blob), "size": layer.size}
        for layer in event.missing
    ]
    return {"missing": missing, "present": [str(diff_id) for diff_id in event.present]}


def _diff_id(name: DiffID | Digest) -> str | None:
    return str(name) if isinstance(name, DiffID) else None
