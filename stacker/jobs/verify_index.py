"""Verify the index of one layer, or of a stack: build it again, and compare the two.

An index is a function of tars.  A store, the index and what it is built from come in; the
differences go out.  The checksum of an equal index is kept.  As long as the index and the tars do
not change, the checksum later proves that they are still equal.  This module must not read the
contents of files.
"""

from __future__ import annotations

import io
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from stacker.erofs.format import BLOCK
from stacker.errors import IntegrityError, LayerError
from stacker.layer.checksums import has_index_checksum, index_checksum, write_index_checksum
from stacker.tree.compare import MOST_DIFFERENCES, Difference

if TYPE_CHECKING:
    from pathlib import Path

    from stacker.image.digest import DiffID
    from stacker.layer.paths import LayerPaths
    from stacker.layer.record import LayerRecord
    from stacker.store.store import Store


def verify_index(
    diff_id: DiffID, paths: LayerPaths, record: LayerRecord, *, trusted: bool
) -> tuple[tuple[Difference, ...], str]:
    """Compare the index of a layer with one that is built from its tar again.

    :param trusted: accept an index with the checksum that :func:`keep_index_checksum` kept; the
        caller compares the tar with its diff_id.
    :returns: the differences, and the checksum of the index.
    :raises IntegrityError: the index or the tar is damaged.
    :raises OSError: a file cannot be read.
    """
    what = f"layer {diff_id}"
    size, wanted = paths.tar.stat().st_size, record.tar_bytes + -record.tar_bytes % BLOCK
    if size != wanted:
        raise IntegrityError(f"damaged layer: {what}: {paths.tar}: got {size} bytes, want {wanted}")
    index = paths.index.read_bytes()
    checksum = index_checksum(index, str(diff_id).encode(), record.to_json())
    if trusted and has_index_checksum(paths.index_checksum, checksum):
        return (), checksum
    return _differences(index, paths, record, what), checksum


def keep_index_checksum(store: Store, path: Path, checksum: str) -> None:
    """Write the checksum of an equal index, unless its store is additional, read-only or full."""
    if path.is_relative_to(store.changing) and not has_index_checksum(path, checksum):
        with suppress(OSError), store.staging.directory("verify") as directory:
            write_index_checksum(path, checksum, temporary=directory / "checksum")


def _differences(
    index: bytes, paths: LayerPaths, record: LayerRecord, what: str
) -> tuple[Difference, ...]:
    want, name = _index_of_tar(paths, record, what), f"{paths.index}"
    if index == want:
        return ()
    from stacker.erofs.read import Image  # only for a damaged index
    from stacker.tree.compare_index import index_differences

    every = index_differences(Image(index, name), Image(want, name))
    found = tuple(islice(every, MOST_DIFFERENCES))
    if not found:
        raise IntegrityError(f"damaged index: {name}: it does not match the tar")
    return found


def _index_of_tar(paths: LayerPaths, record: LayerRecord, what: str) -> bytes:
    from stacker.erofs.inodes import Inodes  # a trusted index is not built
    from stacker.erofs.write import Tar, write_image
    from stacker.stack.rebase import UnpackedLayer, apply_tar

    inodes, out = Inodes(), io.BytesIO()
    try:
        root = apply_tar(UnpackedLayer.at(what, paths, record, "erofs"), inodes, tar=1)
    except LayerError as error:
        raise IntegrityError(f"damaged layer: {error}") from error
    with paths.tar.open("rb") as file:
        write_image(out, inodes, root, [Tar(record.tar_bytes, file.fileno())])
    return out.getvalue()
