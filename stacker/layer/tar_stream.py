"""The tar of a layer of the store, whichever form the layer has.

The paths of a layer and its record come in; the tar's bytes go out, equal to those that were
unpacked.  This module must not compute digests.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from stacker.errors import IntegrityError

if TYPE_CHECKING:
    from stacker.layer.paths import LayerPaths
    from stacker.layer.record import LayerRecord

_CHUNK: Final = 1 << 20


def layer_tar(paths: LayerPaths, record: LayerRecord, *, what: str) -> Iterator[bytes]:
    """Yield the layer's tar: the file if there is one, else from the skeleton and the tree.

    :param what: the name of the layer in errors.
    :raises IntegrityError: a file is missing or has another length, or the skeleton is damaged.
    :raises OSError: the disk cannot read a file.
    """
    if paths.index.exists():
        return whole_tar(paths, record, what=what)
    from stacker.layer.skeleton import reassemble

    return reassemble(paths, record, what=what)


def whole_tar(paths: LayerPaths, record: LayerRecord, *, what: str) -> Iterator[bytes]:
    """Yield the file with the layer's tar, without its padding.

    :raises IntegrityError: the file is too short.
    :raises OSError: the disk cannot read it.
    """
    left = record.tar_bytes
    with paths.tar.open("rb", buffering=0) as file:
        while left:
            chunk = file.read(min(left, _CHUNK))
            if not chunk:
                raise IntegrityError(
                    f"damaged layer: {what}: {paths.tar}: got {record.tar_bytes - left} bytes, "
                    f"want {record.tar_bytes}"
                )
            left -= len(chunk)
            yield chunk
