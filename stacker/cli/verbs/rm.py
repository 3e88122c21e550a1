"""``stacker rm``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.cli.output import print_items, print_line
from stacker.operations.remove import remove_image

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session
    from stacker.image.digest import ImageID
    from stacker.operations.remove import ImageParts

DESCRIPTION = """\
Remove images with all their names, and the layers that no other image has.  An image that is
mounted is refused, with exit code 8.  Each removed image's ID is printed on stdout.
"""
EXAMPLES = """\
  stacker rm app:1.0
  stacker rm $(stacker images --quiet)
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "images",
        metavar="IMAGE",
        nargs="+",
        help="an image ID, the first digits of one, or a name",
    )


def run(args: Namespace, session: Session) -> None:
    """Remove all, or none where one of them is not here."""
    store = session.store()
    removed: list[dict[str, object]] = []
    for image_id in dict.fromkeys([store.images.find(image) for image in args.images]):
        parts = remove_image(store, image_id)
        session.detail(f"removed {image_id} with {len(parts.layers)} layers")
        removed.append(_document(image_id, parts))
        if not session.json:
            print_line(str(image_id))
    if session.json:
        print_items("rm", removed)


def _document(image_id: ImageID, parts: ImageParts) -> dict[str, object]:
    return {"image_id": str(image_id), "layers": sorted(str(layer) for layer in parts.layers)}
