"""Chain IDs: a name for each layer together with everything below it.

In come diff_ids, lowest first, out come as many chain IDs.  What lies on disk under such a
name is not known here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.image.digest import ChainID

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stacker.image.digest import DiffID


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
