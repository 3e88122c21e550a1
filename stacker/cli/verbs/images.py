"""``stacker images``: the images in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.cli.output import print_items, print_line, print_table, shortened, size
from stacker.operations.usage import images_usage

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session
    from stacker.operations.usage import ImageUsage

DESCRIPTION = """\
List the images in the store, in the order of their first pull.  SIZE is the size of all layers of
an image.  UNIQUE is the size of the layers that no other image uses.  FORM is how the store has the
layers: as directories (tree), as tars with an index (erofs), or in both forms (tree+erofs).  With
--quiet, print only the full image IDs.
"""
EXAMPLES = """\
  stacker images
  stacker images --json                   show full digests and sizes in bytes
  stacker rm $(stacker images --quiet)    remove all images
"""


def configure(parser: ArgumentParser) -> None:
    """Add no arguments."""
    del parser


def run(args: Namespace, session: Session) -> None:
    """Print the images in the store."""
    del args
    store = session.store(create=False)
    usages = images_usage(store, session.warn)
    if session.json:
        print_items("images", [_document(usage) for usage in usages])
    elif session.verbosity < 0:
        for usage in usages:
            print_line(str(usage.image.id))
    else:
        headers = ("NAME", "IMAGE ID", "PLATFORM", "LAYERS", "FORM", "SIZE", "UNIQUE", "CREATED")
        print_table(headers, [_row(usage) for usage in usages], right="LAYERS SIZE UNIQUE")


def _row(usage: ImageUsage) -> tuple[str, ...]:
    config = usage.config
    return (
        ", ".join(shortened(name, 60) for name in usage.image.names),
        usage.image.id.short,
        shortened(str(config.platform), 30),
        str(len(config.diff_ids)),
        "+".join(usage.forms),
        size(usage.total),
        size(usage.unique),
        (config.created or "")[:10],
    )


def _document(usage: ImageUsage) -> dict[str, object]:
    image, config = usage.image, usage.config
    return {
        "image_id": str(image.id),
        "names": list(image.names),
        "sources": list(image.sources),
        "manifests": [str(manifest.digest) for manifest in image.manifests],
        "platform": config.platform.to_json(),
        "created": config.created,
        "layers": len(config.diff_ids),
        "missing_layers": usage.missing,
        "forms": list(usage.forms),
        "bytes": {"shared": usage.shared, "own": usage.unique, "total": usage.total},
    }
