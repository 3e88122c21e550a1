"""Layers paired: each blob of a manifest with the diff_id that the config gives it.

In come a manifest and a config, out come pairs, lowest layer first.  Whether a blob really
unpacks to its diff_id shows only when it is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.errors import IntegrityError

if TYPE_CHECKING:
    from stacker.image.config import ImageConfig
    from stacker.image.descriptor import Descriptor
    from stacker.image.digest import DiffID
    from stacker.image.manifest import Manifest


def pair_layers(manifest: Manifest, config: ImageConfig) -> tuple[tuple[Descriptor, DiffID], ...]:
    """Return each layer's descriptor with its diff_id, lowest first.

    :raises IntegrityError: the two documents list different numbers of layers.
    Source: image-spec config.md, "rootfs": diff_ids stand in the order of the layers.
    """
    layers, diff_ids = len(manifest.layers), len(config.diff_ids)
    if layers != diff_ids:
        raise IntegrityError(
            f"image {manifest.image_id}: manifest lists {layers} layers, "
            f"config lists {diff_ids} diff_ids"
        )
    return tuple(zip(manifest.layers, config.diff_ids, strict=True))
