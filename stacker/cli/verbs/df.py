"""``stacker df``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.cli.output import print_item, print_table, print_text, shortened, size
from stacker.operations.usage import store_usage

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session
    from stacker.operations.usage import ImageUsage, StoreUsage

DESCRIPTION = """\
Show what images take on disk: SHARED is in layers that several images have, OWN goes when the
image is removed.  A layer counts with the sizes of its files.  Below stands what the store holds
in all, each layer counted once.
"""
EXAMPLES = """\
  stacker df
  stacker df --json
"""
_PARTS = (
    ("layers", "the unpacked layers"),
    ("unlisted", "of which no image has, left by pulls that failed"),
    ("skeletons", "the layers' tars without contents"),
    ("blobs", "documents and kept blobs"),
    ("partial", "blobs whose transfer broke off, for the next pull to go on with"),
    ("chains", "what stacking had to repair"),
    ("mounts", "writes that go with their mounts"),
    ("total", "in all"),
)


def configure(parser: ArgumentParser) -> None:
    """Add nothing: the verb has no arguments."""
    del parser


def run(args: Namespace, session: Session) -> None:
    """Show."""
    del args
    usage = store_usage(session.store())
    if session.json:
        print_item("df", _document(usage))
        return
    headers = ("NAME", "IMAGE ID", "SHARED", "OWN", "TOTAL")
    print_table(headers, [_row(image) for image in usage.images], right="SHARED OWN TOTAL")
    print_text("")
    for name, meaning in _PARTS:
        print_text(f"{name:<10} {size(getattr(usage, name)):>10}  {meaning}")


def _row(usage: ImageUsage) -> tuple[str, ...]:
    return (
        ", ".join(shortened(name, 60) for name in usage.image.names),
        usage.image.id.short,
        size(usage.shared),
        size(usage.unique),
        size(usage.total),
    )


def _document(usage: StoreUsage) -> dict[str, object]:
    return {
        "images": [
            {
                "image_id": str(image.image.id),
                "names": list(image.image.names),
                "bytes": {"shared": image.shared, "own": image.unique, "total": image.total},
            }
            for image in usage.images
        ],
        "bytes": {name: getattr(usage, name) for name, _ in _PARTS},
    }
