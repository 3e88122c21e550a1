"""Open the sources of images for a store, also to unpack damaged layers again.

A store, the options for registries and a location come in; an open source, or the functions that
open it later, go out.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from stacker.api.options import jobs_or_all, unpack_options

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stacker.api.registries import RegistryOptions
    from stacker.events import Emit
    from stacker.image.digest import DiffID, ImageID
    from stacker.operations.durability import Restore
    from stacker.operations.repair import Repair
    from stacker.source.protocol import Source
    from stacker.store.store import Store


@contextmanager
def open_for(store: Store, registries: RegistryOptions, location: str) -> Iterator[Source]:
    """Open a source, with a directory of the store for what it decompresses."""
    from stacker.image.location import is_in_registry
    from stacker.source.open import open_source

    access = registries.access() if is_in_registry(location) else None
    with (
        store.staging.directory("spool") as spool,
        open_source(location, spool=spool, access=access) as source,
    ):
        yield source


def repair_with(
    store: Store, registries: RegistryOptions, on_event: Emit, jobs: int | None = None
) -> Repair:
    """Return how damaged layers of a store are replaced.

    :param jobs: layers to unpack at the same time; ``None`` for one for each processor.
    """
    from stacker.operations.repair import Repair

    opened = partial(open_for, store, registries)
    return Repair(opened, unpack_options(), jobs_or_all(jobs), on_event)


def restore_by(repair: Repair) -> Restore:
    """Return the function that unpacks damaged layers of an image again."""

    def restore(store: Store, image_id: ImageID, diff_ids: Sequence[DiffID]) -> None:
        from stacker.operations.repair import replace_layers

        replace_layers(store, image_id, diff_ids, repair)

    return restore
