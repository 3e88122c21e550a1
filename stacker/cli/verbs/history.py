"""``stacker history``: the build steps of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stacker.cli.options import add_image
from stacker.cli.output import add_template, print_list, shortened, size
from stacker.image.config import History

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterable, Iterator

    from stacker.cli.session import Session
    from stacker.image.digest import DiffID

DESCRIPTION = """\
Show the build steps that the config of an image records, latest first.  A step without a diff_id
did not create a layer.
"""
EXAMPLES = """\
  stacker history app:1.0
  stacker history app:1.0 --json    show commands and digests in full
"""
_COMMAND = 80


class Step(NamedTuple):
    """A build step of an image, and the layer that it created."""

    history: History
    diff_id: DiffID | None
    size: int | None


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_image(parser)
    add_template(parser)


def run(args: Namespace, session: Session) -> None:
    """Print the build steps of an image."""
    image = session.open(create=False).image(args.image)
    sizes = {layer.diff_id: layer.size for layer in image.layers if layer.present}
    pairs = paired([layer.diff_id for layer in image.layers], image.history)
    steps = [
        Step(history, diff_id, None if diff_id is None else sizes.get(diff_id))
        for history, diff_id in pairs
    ][::-1]
    headers = ("CREATED", "DIFF ID", "SIZE", "CREATED BY")
    documents = [_document(step) for step in steps]
    print_list(
        args,
        "history",
        documents,
        lambda: (headers, [_row(s) for s in steps], "SIZE"),
        as_json=session.json,
    )


def paired(
    diff_ids: Iterable[DiffID], steps: Iterable[History]
) -> Iterator[tuple[History, DiffID | None]]:
    """Yield each step with its layer; pair a layer without a step with an empty step.

    Steps without ``empty_layer`` correspond to the diff_ids in order.  An image may have fewer
    steps than layers.  Source: image-spec config.md, "history".
    """
    left = iter(diff_ids)
    for history in steps:
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
