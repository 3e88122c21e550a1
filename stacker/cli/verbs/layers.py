"""``stacker layers``: the layers of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.cli.options import add_image
from stacker.cli.output import add_template, print_list, size
from stacker.image.config import chain_ids
from stacker.operations.usage import count_layer_users

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Mapping, Sequence

    from stacker.cli.output import Listing
    from stacker.cli.session import Session
    from stacker.image.digest import ChainID, DiffID
    from stacker.layer.record import LayerRecord
    from stacker.store.store import Store

DESCRIPTION = """\
List the layers of an image with their sizes, base first.  WHITEOUTS is the number of names that the
layer deletes.  FORM says how the store has the layer: as a directory with its files (tree), as its
tar with an index (erofs), or as both (tree+erofs).  IMAGES is the number of images in the store
that use the layer.
"""
EXAMPLES = """\
  stacker layers app:1.0
  stacker layers app:1.0 --json    show full digests and the unpacked directories
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_image(parser)
    add_template(parser)


def run(args: Namespace, session: Session) -> None:
    """Print the layers of an image."""
    store = session.store(create=False)
    config = store.images.config(store.images.find(args.image))
    users = count_layer_users(store)
    chains = chain_ids(config.diff_ids)
    layers = [(diff_id, store.layers.record(diff_id)) for diff_id in config.diff_ids]
    documents = [
        _document(store, diff_id, record, chain, users[diff_id])
        for (diff_id, record), chain in zip(layers, chains, strict=True)
    ]
    print_list(
        args, "layers", documents, lambda: _table(store, layers, users), as_json=session.json
    )


def _table(
    store: Store, layers: Sequence[tuple[DiffID, LayerRecord]], users: Mapping[DiffID, int]
) -> Listing:
    rows = [
        (
            *(str(number), diff_id.short, "+".join(store.layers.paths(diff_id).forms)),
            *(*_counts(record), str(users[diff_id])),
        )
        for number, (diff_id, record) in enumerate(layers, 1)
    ]
    headers = ("#", "DIFF ID", "FORM", "ENTRIES", "FILES", "SIZE", "WHITEOUTS", "IMAGES")
    return headers, rows, "# ENTRIES FILES SIZE WHITEOUTS IMAGES"


def _counts(record: LayerRecord) -> tuple[str, ...]:
    return str(record.entries), str(record.files), size(record.file_bytes), str(record.whiteouts)


def _document(
    store: Store, diff_id: DiffID, record: LayerRecord, chain: ChainID, images: int
) -> dict[str, object]:
    paths = store.layers.paths(diff_id)
    forms = paths.forms
    return {
        "diff_id": str(diff_id),
        "chain_id": str(chain),
        "forms": list(forms),
        "directory": str(paths.diff) if "tree" in forms else None,
        "tar": str(paths.tar) if "erofs" in forms else None,
        "blobs": list(record.blobs),
        "whiteout_format": record.whiteout_format.value,
        "squashed": record.squashed,
        "entries": record.entries,
        "files": record.files,
        "whiteouts": record.whiteouts,
        "bytes": {"files": record.file_bytes, "tar": record.tar_bytes},
        "images": images,
        "warnings": list(record.warnings),
    }
