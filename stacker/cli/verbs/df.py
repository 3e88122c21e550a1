"""``stacker df``: the disk usage of the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.cli.output import print_item, print_table, print_text, shortened, size

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker import ImageUsage, StoreUsage
    from stacker.cli.session import Session

DESCRIPTION = """\
Show the disk usage of the store.  SHARED is the size of the layers that other images use as well.
UNIQUE is the size of the layers that only this image uses; `stacker rm` frees it.  The size of a
layer is the sum of its file sizes.  FORM is how the store has the layers (see `stacker images`).

The lines below the table are about the whole store, in bytes that the filesystem allocates; `total`
equals the sum that `du -s` prints.  A layer that several images share counts once.  Blocks that
files share by reflink count for each file.
"""
EXAMPLES = """\
  stacker df           show sizes with units
  stacker df --json    show sizes in bytes
"""
_PARTS = (
    ("layers", "layers: trees, or tars with an EROFS index"),
    ("unlisted", "layers without an image, left by failed pulls (included in layers)"),
    ("skeletons", "tar streams of the layers without file contents, and checksums"),
    ("blobs", "manifests, configs and kept layer blobs"),
    ("partial", "interrupted downloads that the next pull resumes"),
    ("chains", "stored stacks, with the directories that repair them"),
    ("staging", "unfinished work of commands"),
    ("mounts", "records of mounts, and writes that unmounting discards"),
    ("other", "the list of images, indexes, lock files and directories"),
    ("total", "all of the above"),
)


def configure(parser: ArgumentParser) -> None:
    """Add no arguments."""
    del parser


def run(args: Namespace, session: Session) -> None:
    """Print the sizes of every image and of the store."""
    del args
    usage = session.open(create=False).usage(on_damage=session.warn)
    if session.json:
        print_item("df", _document(usage))
        return
    headers = ("NAME", "IMAGE ID", "FORM", "SHARED", "UNIQUE", "TOTAL")
    print_table(headers, [_row(image) for image in usage.images], right="SHARED UNIQUE TOTAL")
    print_text("")
    for name, meaning in _PARTS:
        print_text(f"{name:<10} {size(getattr(usage, name)):>10}  {meaning}")


def _row(usage: ImageUsage) -> tuple[str, ...]:
    return (
        ", ".join(shortened(name, 60) for name in usage.image.names),
        usage.image.id.short,
        "+".join(usage.forms),
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
                "forms": list(image.forms),
                "bytes": {"shared": image.shared, "own": image.unique, "total": image.total},
            }
            for image in usage.images
        ],
        "bytes": {name: getattr(usage, name) for name, _ in _PARTS},
    }
