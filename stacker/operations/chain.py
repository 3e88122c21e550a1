"""An image's layers to its stack, made once and kept under the chain ID of its layers.

In: a config whose layers are in the store.  Out: the record of what a mount stacks.  Light to
import, since every mount starts here; what making a stack takes is loaded when one is made.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from stacker.errors import LayerError
from stacker.image.digest import ChainID
from stacker.image.rootfs import chain_ids
from stacker.store.chains import ChainRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stacker.image.config import ImageConfig
    from stacker.layer.whiteout_format import WhiteoutFormat
    from stacker.stack.rebase import Unpacked
    from stacker.store.store import Store
    from stacker.tar.limits import Limits

_PATH_MAX: Final = 4096
_SHOWN: Final = 200
NO_LAYERS = ChainID("sha256", "0" * 64)
"""What an image without layers is stacked under."""


def chain_of(config: ImageConfig) -> ChainID:
    """Give the chain ID under which an image's stack is kept."""
    ids = chain_ids(config.diff_ids)
    return ids[-1] if ids else NO_LAYERS


def is_complete(store: Store, config: ImageConfig) -> bool:
    """Say whether everything a mount needs is in the store."""
    return store.chains.has(chain_of(config)) and all(map(store.layers.has, config.diff_ids))


def stacked(
    store: Store,
    config: ImageConfig,
    whiteouts: WhiteoutFormat,
    *,
    limits: Limits | None = None,
    sync: bool = False,
) -> ChainRecord:
    """Give the stack of an image whose layers are in the store; make it if need be.

    Whoever calls it keeps the layers from being removed (``store.layers.reading``).

    :param whiteouts: what an image without layers is said to be written in.
    :param limits: those that the layers were unpacked with, if they are not the usual ones.
    :param sync: have what is made on disk before it gets its name.
    :raises NotFoundError: a layer is not in the store.
    :raises LayerError: the layers do not fit together.
    """
    chain_id = chain_of(config)
    if not store.chains.has(chain_id):
        from stacker.stack.chain import chained  # not for an image that was stacked before

        with store.chains.building(chain_id) as room:
            if room is not None:
                layers = _unpacked(store, config)
                with _explaining(chain_id):
                    chain = chained(layers, room=room, form=whiteouts, limits=limits)
                record = ChainRecord(chain.directories, chain.form, chain.plain)
                store.chains.commit(chain_id, room, record, sync=sync)
    return store.chains.read(chain_id)


@contextmanager
def _explaining(chain_id: ChainID) -> Iterator[None]:
    """Say whose fault it is that a layer has a path which cannot be named at once."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        from stacker.tar.entry import shown  # no mount comes by here

        name = os.fsencode(error.filename or "")
        raise LayerError(
            f"cannot stack layers: chain {chain_id}: got a path of {len(name)} bytes with the "
            f"store's own, want at most {_PATH_MAX - 1}: {shown(name[:_SHOWN])}…",
            hint="if the path inside of the image is not that long, a shorter --store helps",
        ) from error


def _unpacked(store: Store, config: ImageConfig) -> list[Unpacked]:
    from stacker.stack.rebase import Unpacked

    layers = []
    for diff_id in config.diff_ids:
        place, record = store.layers.place(diff_id), store.layers.record(diff_id)
        layers.append(Unpacked(f"layer {diff_id}", place.diff, place.skeleton, place.aside, record))
    return layers
