"""Verify a layer in EROFS form: its tar against the diff_id, and its index against the tar.

The paths of a layer and its record come in; differences go out.  This module changes nothing.
"""

from __future__ import annotations

import io
from itertools import islice
from typing import TYPE_CHECKING

from stacker.erofs.format import BLOCK
from stacker.erofs.inodes import Inodes
from stacker.erofs.read import Image
from stacker.erofs.write import Tar, write_image
from stacker.errors import IntegrityError, LayerError
from stacker.stack.rebase import UnpackedLayer, apply_tar
from stacker.tree.compare import MOST_DIFFERENCES, Difference
from stacker.tree.compare_index import index_differences

if TYPE_CHECKING:
    from stacker.layer.paths import LayerPaths
    from stacker.layer.record import LayerRecord


def compare_index(paths: LayerPaths, record: LayerRecord, *, what: str) -> tuple[Difference, ...]:
    """Return how the index on disk differs from one that is made of the tar again.

    :param what: the name of the layer in errors.
    :raises IntegrityError: the index or the tar is damaged.
    :raises OSError: a file cannot be read.
    """
    size, wanted = paths.tar.stat().st_size, record.tar_bytes + -record.tar_bytes % BLOCK
    if size != wanted:
        raise IntegrityError(f"damaged layer: {what}: {paths.tar}: got {size} bytes, want {wanted}")
    want = _made_again(paths, record, what)
    got, name = paths.index.read_bytes(), f"{paths.index}"
    if got == want:
        return ()
    every = index_differences(Image(got, name), Image(want, name))
    found = tuple(islice(every, MOST_DIFFERENCES))
    if not found:
        raise IntegrityError(f"damaged index: {name}: got other bytes than those of the tar")
    return found


def _made_again(paths: LayerPaths, record: LayerRecord, what: str) -> bytes:
    inodes, out = Inodes(), io.BytesIO()
    try:
        root = apply_tar(UnpackedLayer.at(what, paths, record, "erofs"), inodes, tar=1)
    except LayerError as error:
        raise IntegrityError(f"damaged layer: {error}") from error
    with paths.tar.open("rb") as file:
        write_image(out, inodes, root, [Tar(record.tar_bytes, file.fileno())])
    return out.getvalue()
