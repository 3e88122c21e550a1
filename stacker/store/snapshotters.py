"""The layers and chains that the snapshots of containerd use.

A store comes in; the diff_ids and chain IDs that its snapshotters' databases list go out.  Each
snapshotter registers the directory of its snapshots in the store, so that `rm` and `gc` find the
database without a running process.  `stacker.containerd.metadata` writes the database; this module
only reads it.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from stacker.errors import IntegrityError
from stacker.image.digest import ChainID, DiffID
from stacker.linux.filesystem import sync_directory

if TYPE_CHECKING:
    from pathlib import Path

    from stacker.store.store import Store

DATABASE: Final = "snapshots.db"
"""The name of the database in the directory of the snapshots."""
_TIMEOUT: Final = 30.0  # seconds


@dataclass(frozen=True, slots=True)
class HeldParts:
    """What snapshots use.

    :param layers: each layer, with the directory of the snapshots.
    :param chains: the same for chains.
    """

    layers: dict[DiffID, Path]
    chains: dict[ChainID, Path]

    @classmethod
    def read(cls, store: Store) -> HeldParts:
        """Return what the snapshots of all registered directories use.

        The caller has locked what it wants to remove.

        :raises IntegrityError: a database is damaged.
        """
        found = cls({}, {})
        for root in _registered(store):
            if (root / DATABASE).exists():  # else the snapshots were removed with their directory
                _read(root, found)
        return found


def register(store: Store, root: Path) -> None:
    """Record in the store that snapshots below a directory use it."""
    folder = store.root / "snapshotters"
    link = folder / hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    folder.mkdir(mode=0o700, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(root)
        sync_directory(folder)
        sync_directory(store.root)


def _registered(store: Store) -> list[Path]:
    folder = store.root / "snapshotters"
    return [link.readlink() for link in sorted(folder.glob("*"))] if folder.is_dir() else []


def _read(root: Path, found: HeldParts) -> None:
    import sqlite3  # most stores have no snapshots

    path = root / DATABASE
    try:
        with closing(sqlite3.connect(path, timeout=_TIMEOUT)) as database:
            rows = database.execute("SELECT DISTINCT diff_id, chain_id FROM snapshots").fetchall()
    except sqlite3.Error as error:
        raise IntegrityError(
            f"cannot read the snapshots of containerd: {path}: {error}",
            hint="their layers are unknown; end the snapshotter and repair or remove its directory",
        ) from error
    for diff_id, chain_id in rows:
        if diff_id is not None:
            found.layers[DiffID.parse(diff_id)] = root
        if chain_id is not None:
            found.chains[ChainID.parse(chain_id)] = root
