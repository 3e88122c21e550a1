"""Write the indexes of hostile layers, and read hostile images.

Bytes of a tar or of an image come in; a `StackerError` is raised, or the index can be read back.
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from stacker.erofs.inodes import Inodes
from stacker.erofs.load import CopiedDataError, load_tree
from stacker.erofs.read import Image
from stacker.layer.metadata import IDENTITY
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux.removal import remove_tree
from stacker.tar.limits import Limits
from tests.support.erofs_layers import LAYERS, on_disk
from tests.support.indexes import index_of, index_snapshot


def write_index(stream: bytes, limits: Limits) -> None:
    """Write the index of a tar; read it back, and load it again."""
    path = Path(tempfile.mkdtemp(prefix="stacker-fuzz-"))
    try:
        tar = path / "layer.tar"
        image, record = index_of(
            stream, tar, whiteout_format=WhiteoutFormat.TRUSTED, idmap=IDENTITY, limits=limits
        )
        found = index_snapshot(image, tar)
        assert sum(node.kind == "file" for node in found.values()) <= record.entries
        with suppress(CopiedDataError):
            load_tree(Image(image, "fuzz"), Inodes(), tar=1)
    finally:
        remove_tree(path)


def read_image(data: bytes) -> None:
    """Load an EROFS image, damaged or hostile."""
    with suppress(CopiedDataError):
        load_tree(Image(data, "fuzz"), Inodes(), tar=1)


def image_seeds() -> list[bytes]:
    """Return the index of each feature."""
    with tempfile.TemporaryDirectory() as path:
        place = Path(path)
        return [on_disk(place, parts).index.read_bytes() for parts in LAYERS.values()]
