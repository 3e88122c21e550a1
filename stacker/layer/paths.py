"""Where a layer's parts lie, for who wants its entries without walking its tree.

Paths only, so that a plan can carry them; knows no store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class LayerSource:
    """One directory of a stack.

    :param diff: the tree as it lies on disk.
    :param skeleton: the layer's tar without contents; ``None`` for a directory that has none.
    :param record: the file with the :class:`stacker.layer.record.LayerRecord`, beside a skeleton.
    """

    diff: Path
    skeleton: Path | None = None
    record: Path | None = None
