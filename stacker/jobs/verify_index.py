"""Verify a layer in EROFS form: its tar against the diff_id, and its index against the tar.

The paths of a layer and its record come in; differences go out.  This module changes nothing.
"""

from __future__ import annotations

import io
import mmap
from itertools import islice
from typing import TYPE_CHECKING

from stacker.erofs.format import BLOCK
from stacker.erofs.inodes import Inodes
from stacker.erofs.read import Image
from stacker.erofs.write import Tar, write_image
from stacker.errors import IntegrityError, LayerError
from stacker.layer.apply_index import apply_to_index
from stacker.layer.metadata import IDENTITY, SQUASH
from stacker.tar.index import SeekableChunks
from stacker.tar.limits import UNLIMITED
from stacker.tar.reader import TarReader
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
    with paths.index.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
        if data[:] == want:
            return ()
        with memoryview(data) as view:
            return _named(view, want, f"{paths.index}")


def _named(data: memoryview, want: bytes, what: str) -> tuple[Difference, ...]:
    """Return the differences by path; if there are none, the images differ elsewhere."""
    image = Image(data, what)
    try:
        found = tuple(islice(index_differences(image, Image(want, what)), MOST_DIFFERENCES))
    finally:
        image.data.release()
    if not found:
        raise IntegrityError(f"damaged index: {what}: got other bytes than those of the tar")
    return found


def _made_again(paths: LayerPaths, record: LayerRecord, what: str) -> bytes:
    inodes, out = Inodes(), io.BytesIO()
    with paths.tar.open("rb") as file:
        reader = TarReader(SeekableChunks(file), what=what, limits=UNLIMITED)
        try:
            root, _ = apply_to_index(
                reader,
                inodes,
                tar=1,
                whiteout_format=record.whiteout_format,
                idmap=SQUASH if record.squashed else IDENTITY,
                limits=UNLIMITED,
            )
        except LayerError as error:
            raise IntegrityError(f"damaged layer: {error}") from error
        write_image(out, inodes, root, [Tar(record.tar_bytes, file.fileno())])
    return out.getvalue()
