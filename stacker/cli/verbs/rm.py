"""``stacker rm``: remove names, images and unused layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.cli.options import add_images
from stacker.cli.output import print_items, print_line
from stacker.errors import UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker import Removal, Store
    from stacker.cli.session import Session

DESCRIPTION = """\
Remove images.  If IMAGE is a name, stacker removes the name; if it is the last name of the image,
stacker removes the image, too.  If IMAGE is an ID, stacker removes the image; if the image has
several names, this needs --force.  With an image, stacker removes the layers that no other image
uses.

stacker prints the ID of each removed image.  stacker checks all images first.  If an IMAGE does not
exist (exit code 3), or is mounted or in use (exit code 8), stacker removes no image.  Unmount a
mounted image first.
"""
EXAMPLES = """\
  stacker rm app:1.0 app:1.1
  stacker rm --force 3f5a             remove an image with all its names
  stacker rm --all                    remove all images
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_images(parser, nargs="*")
    parser.add_argument("--all", action="store_true", help="remove all images")
    parser.add_argument(
        "--force", action="store_true", help="remove an image that has several names by its ID"
    )


def run(args: Namespace, session: Session) -> None:
    """Remove names and images, or nothing if one of them cannot be removed."""
    if bool(args.images) == args.all:
        raise UsageError(
            "got --all and an IMAGE, want one of them" if args.all else "missing IMAGE",
            hint="`stacker images` lists the images; --all removes all of them",
        )
    removal = _remove(args, session.open(create=False))
    for name, image_id in removal.untagged.items():
        session.say(f"removed the name {name}; image {image_id.short} has other names")
    for image_id, parts in removal.images.items():
        session.detail(f"removed {image_id} with {len(parts.layers)} layers")
        if not session.json:
            print_line(str(image_id))
    if session.json:
        untagged = [
            {"name": name, "image_id": str(image_id)} for name, image_id in removal.untagged.items()
        ]
        print_items("rm", _documents(removal), untagged=untagged)


def _remove(args: Namespace, store: Store) -> Removal:
    if args.all:
        return store.remove_all()
    return store.remove(*args.images, force=args.force)


def _documents(removal: Removal) -> list[dict[str, object]]:
    return [
        {"image_id": str(image_id), "layers": sorted(map(str, parts.layers))}
        for image_id, parts in removal.images.items()
    ]
