"""``stacker rm``: remove images and unused layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.cli.options import add_images
from stacker.cli.output import print_items, print_line
from stacker.operations.remove import remove_images

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session
    from stacker.image.digest import ImageID
    from stacker.operations.remove import ImageParts

DESCRIPTION = """\
Remove images with all their names, and the layers that no other image uses.  stacker prints the ID
of each removed image.  stacker checks all images first.  If an IMAGE does not exist (exit code 3),
or is mounted or in use (exit code 8), stacker removes no image.  Unmount a mounted image first.
"""
EXAMPLES = """\
  stacker rm app:1.0 app:1.1
  stacker rm $(stacker images --quiet)    remove all images
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_images(parser, nargs="+")


def run(args: Namespace, session: Session) -> None:
    """Remove images, or none of them if one cannot be removed."""
    store = session.store(create=False)
    removed: list[dict[str, object]] = []
    found = [store.images.find(image) for image in args.images]
    for image_id, parts in remove_images(store, found).items():
        session.detail(f"removed {image_id} with {len(parts.layers)} layers")
        removed.append(_document(image_id, parts))
        if not session.json:
            print_line(str(image_id))
    if session.json:
        print_items("rm", removed)


def _document(image_id: ImageID, parts: ImageParts) -> dict[str, object]:
    return {"image_id": str(image_id), "layers": sorted(str(layer) for layer in parts.layers)}
