"""``stacker history``."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stacker.cli.output import print_items, print_table, shortened, size
from stacker.image.config import History
from stacker.operations.usage import layer_bytes

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator

    from stacker.cli.session import Session
    from stacker.image.config import ImageConfig
    from stacker.image.digest import DiffID

DESCRIPTION = """\
Show the steps by which an image was made, the latest first, as its config tells them; a step
without a layer changed nothing but the config.
"""
EXAMPLES = """\
  stacker history app:1.0
"""
_COMMAND = 80


class Step(NamedTuple):
    """A step of an image's history, and the layer it made."""

    history: History
    diff_id: DiffID | None
    size: int | None


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "image", metavar="IMAGE", help="an image ID, the first digits of one, or a name"
    )


def run(args: Namespace, session: Session) -> None:
    """Show."""
    store = session.store()
    config = store.images.config(store.images.find(args.image))
    steps = [
        Step(history, diff_id, None if diff_id is None else layer_bytes(store, diff_id))
        for history, diff_id in paired(config)
    ][::-1]
    if session.json:
        print_items("history", [_document(step) for step in steps])
    else:
        headers = ("CREATED", "DIFF ID", "SIZE", "CREATED BY")
        print_table(headers, [_row(step) for step in steps], right="SIZE")


def paired(config: ImageConfig) -> Iterator[tuple[History, DiffID | None]]:
    """Give each step with its layer, and layers that no step tells of with an empty one.

    Source: image-spec config.md, "history": steps stand in order, those without ``empty_layer``
    made the diff_ids one by one.  Nothing forces an author to write all of them.
    """
    left = iter(config.diff_ids)
    for history in config.history:
        yield history, None if history.empty_layer else next(left, None)
    for diff_id in left:
        yield History(), diff_id


def _row(step: Step) -> tuple[str, ...]:
    return (
        (step.history.created or "")[:19],
        "" if step.diff_id is None else step.diff_id.short,
        "" if step.size is None else size(step.size),
        shortened(step.history.created_by or step.history.comment, _COMMAND),
    )


def _document(step: Step) -> dict[str, object]:
    return {
        "created": step.history.created,
        "created_by": step.history.created_by,
        "author": step.history.author,
        "comment": step.history.comment,
        "empty_layer": step.history.empty_layer,
        "diff_id": None if step.diff_id is None else str(step.diff_id),
        "bytes": step.size,
    }
