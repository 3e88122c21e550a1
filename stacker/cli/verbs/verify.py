"""``stacker verify``."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from stacker.cli.options import add_images, add_jobs
from stacker.cli.output import print_item, print_line, print_text
from stacker.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker import ChainVerified, ImageID, LayerVerified, Verification
    from stacker.cli.session import Session

DESCRIPTION = """\
Verify images in the store.  stacker computes the diff_id of each layer from the files on disk.  It
also compares the type, mode, owner, time, xattrs and links of every file with the layer's tar.  A
chain is the stored list of the directories that a mount stacks, with the directories that repair
the stack.  stacker compares the chain of each image with its layers.

stacker prints a line for each difference, and the ID of each image whose manifest and config are
intact, even if a layer is damaged.  If an image is damaged, the exit code is 5.  `stacker repair`
replaces damaged layers and chains.
"""
EXAMPLES = """\
  stacker verify app:1.0
  stacker verify --all
  stacker verify --all --fast    compare attributes only, without reading file contents
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_choice(parser, every="verify every image, layer and chain", what="verify")


def add_choice(parser: ArgumentParser, *, every: str, what: str) -> None:
    """Add the arguments that verify and repair share.

    :param every: the help of ``--all``.
    :param what: the task of a worker, for the help of ``--jobs``.
    """
    add = parser.add_argument
    add_images(parser, nargs="*")
    add("-a", "--all", action="store_true", help=every)
    add(
        "--fast", action="store_true", help="compare attributes only, without reading file contents"
    )
    add_jobs(parser, f"layers to {what}")


def require_choice(args: Namespace) -> None:
    """Require either images or ``--all``.

    :raises UsageError: neither is given, or both.
    """
    if bool(args.images) == args.all:
        got = "both IMAGE and" if args.all else "neither IMAGE nor"
        raise UsageError(
            f"no choice of images: got {got} --all, want one of them",
            hint="`stacker images` lists the images in the store",
        )


def run(args: Namespace, session: Session) -> None:
    """Verify images, and print each sound image and each difference.

    :raises IntegrityError: an image or a layer is damaged.
    """
    require_choice(args)
    store = session.open(create=False)
    found = store.verify(*args.images, contents=not args.fast, jobs=args.jobs)
    session.warn_rewritten(found.rewritten)
    if session.json:
        print_item("verify", _document(found))
    else:
        for image in found.images:
            if image.damage is None:
                print_line(str(image.image_id))
        _print_damage(found)
    chosen = "--all" if args.all else shlex.join(args.images)
    _require_sound(found, hint=f"`stacker repair {chosen}` replaces damaged layers and chains")


def require_sound(
    _: object, image_id: ImageID, *, name: str, contents: bool, session: Session
) -> None:
    """Verify an image for another verb; print its differences if it is damaged.

    :param name: the image as the user named it, for the hint.
    :raises IntegrityError: the image is damaged.
    """
    found = session.open().verify(image_id, contents=contents)
    session.warn_rewritten(found.rewritten)
    if found.is_sound:
        return
    if session.json:
        print_item("verify", _document(found))
    else:
        _print_damage(found)
    chosen = shlex.quote(name)
    _require_sound(found, hint=f"`stacker repair {chosen}` replaces damaged layers and chains")


def _require_sound(found: Verification, *, hint: str) -> None:
    if not found.is_sound:
        damaged = [f"image {each.image_id}" for each in found.images if each.damage is not None]
        damaged += [name for name, _ in _damaged(found)]
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        raise IntegrityError(
            f"damaged: {damaged[0]}{more}: got changed content, want the content that was pulled",
            hint=hint,
        )


def _print_damage(found: Verification) -> None:
    for image in found.images:
        if image.damage is not None:
            print_text(f"image {image.image_id}: {image.damage}")
    for name, part in _damaged(found):
        if part.damage is not None:
            print_text(f"{name}: {part.damage}")
        for difference in part.differences:
            print_text(f"{name}: {difference}")


def _damaged(found: Verification) -> list[tuple[str, LayerVerified | ChainVerified]]:
    """Return the damaged layers and chains, each with its name for messages."""
    return [
        *((f"layer {layer.diff_id}", layer) for layer in found.damaged),
        *((f"chain {chain.chain_id}", chain) for chain in found.damaged_chains),
    ]


def _document(found: Verification) -> dict[str, object]:
    return {
        "sound": found.is_sound,
        "images": [
            {
                "image_id": str(image.image_id),
                "damage": image.damage,
                "layers": [str(diff_id) for diff_id in image.diff_ids],
            }
            for image in found.images
        ],
        "layers": [{"diff_id": str(each.diff_id), **_part(each)} for each in found.layers],
        "chains": [{"chain_id": str(each.chain_id), **_part(each)} for each in found.chains],
    }


def _part(part: LayerVerified | ChainVerified) -> dict[str, object]:
    return {
        "sound": part.is_sound,
        "damage": part.damage,
        "differences": [
            {
                "path": each.path.decode("utf-8", "surrogateescape"),
                "what": each.what,
                "got": each.got,
                "want": each.want,
            }
            for each in part.differences
        ],
    }
