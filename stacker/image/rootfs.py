"""Chain IDs: a name for each layer together with everything below it.

In come diff_ids, lowest first, out come as many chain IDs.  What lies on disk under such a
name is not known here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.errors import IntegrityError
from stacker.image.digest import ChainID

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stacker.image.config import ImageConfig
    from stacker.image.descriptor import Descriptor
    from stacker.image.digest import DiffID
    from stacker.image.manifest import Manifest


def chain_ids(diff_ids: Sequence[DiffID]) -> tuple[ChainID, ...]:
    """Return the chain ID of each layer of `diff_ids`, lowest first.

    Source: image-spec config.md, "Layer ChainID": the lowest layer's is its diff_id, any other
    is the digest of the one below, a space and the layer's diff_id.
    """
    chains: list[ChainID] = []
    for diff_id in diff_ids:
        if chains:
            chains.append(ChainID.of(f"{chains[-1]} {diff_id}".encode()))
        else:
            chains.append(ChainID.recast(diff_id))
    return tuple(chains)


# FOLDED from stacker.image.rootfs
# """Layers paired: each blob of a manifest with the diff_id that the config gives it.
#
# In come a manifest and a config, out come pairs, lowest layer first.  Whether a blob really
# unpacks to its diff_id shows only when it is read.
# """


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
