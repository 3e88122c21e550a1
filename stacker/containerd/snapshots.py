"""Containerd's snapshots service: its ten calls, without a transport.

Keys, names and labels come in; mounts, `Snapshot` values and `StatusError` go out.  The database
decides what exists: a directory without a row is left over from a killed process, and `cleanup`
removes it.  This module must not know gRPC.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from stacker.containerd import filters
from stacker.containerd.layers import FindTask, StackTask, find_layer, stack_layers
from stacker.containerd.metadata import Kind, Metadata, Snapshot
from stacker.containerd.mounts import (
    LONGEST_OPTION,
    Directories,
    Mount,
    bind_mount,
    overlay_mount,
)
from stacker.containerd.status import Code, StatusError
from stacker.containerd.workers import Workers
from stacker.errors import IntegrityError, StackerError
from stacker.image.digest import ChainID, DiffID
from stacker.linux.removal import remove_path
from stacker.operations.usage import allocated
from stacker.store.store import Store

TARGET: Final = "containerd.io/snapshot.ref"
"""The label with the chain ID that a client unpacks; only such a client expects ALREADY_EXISTS."""
LAYER_LABELS: Final = (
    "containerd.io/snapshot/cri.layer-digest",
    "containerd.io/snapshot/diff-id",
)
"""The labels with the digest of the layer's blob, and with its diff_id."""


class Snapshotter:
    """The snapshots below one root directory.

    :param directories: the directories, which exist.
    :param store: has the layers.
    :param workers: run what takes long.
    """

    def __init__(self, directories: Directories, store: Store, workers: Workers) -> None:
        self.directories = directories
        self.store = store
        self._workers = workers
        self.metadata = Metadata(directories.database)

    async def prepare(self, key: str, parent: str, labels: Mapping[str, str]) -> list[Mount]:
        """Create an active snapshot, and return its mounts.

        If labels name a layer that is in the store, it becomes a committed snapshot instead, and
        the client neither fetches nor applies it (a *remote snapshot*).

        :raises StatusError: NOT_FOUND, INVALID_ARGUMENT or ALREADY_EXISTS.
        """
        mounts = await self._create(Kind.ACTIVE, key, parent, labels)
        if TARGET in labels and await self._found(key, labels):
            raise StatusError(
                Code.ALREADY_EXISTS, f"target snapshot {labels[TARGET]}: already exists"
            )
        return mounts

    async def _found(self, key: str, labels: Mapping[str, str]) -> bool:
        """Commit a new snapshot whose layer is in the store, and return whether it is."""
        snapshot, target = self.metadata.get(key), labels[TARGET]
        if not self.has_layers_only(snapshot.parent) or not any(map(labels.get, LAYER_LABELS)):
            return False
        try:
            task = FindTask(
                self.store,
                self.directories.database,
                snapshot.id,
                tuple(map(DiffID.parse, _layers(self.metadata.ancestors(snapshot.parent)))),
                ChainID.parse(target),
                *map(labels.get, LAYER_LABELS),
            )
            if not await self._workers.run(find_layer, task, f"snapshot {key}"):
                return False
        except IntegrityError:  # a label is no digest: the client fetches the layer
            return False
        name = self._free_name(key, target)
        self.metadata.commit(key, name, labels, usage=await self._measured(self.metadata.get(key)))
        return True

    def _free_name(self, key: str, target: str) -> str:
        """Return the name of a committed snapshot that clients find by its labels."""
        prefix, _, _ = key.rpartition("extract-")
        return f"{prefix}{target}" if prefix else target

    async def view(self, key: str, parent: str, labels: Mapping[str, str]) -> list[Mount]:
        """Create a read-only snapshot, and return its mounts; errors as for `prepare`."""
        return await self._create(Kind.VIEW, key, parent, labels)

    async def _create(
        self, kind: Kind, key: str, parent: str, labels: Mapping[str, str]
    ) -> list[Mount]:
        lower = self._own_lower(self.metadata.ancestors(parent))
        found = self.metadata.create(
            kind,
            key,
            parent,
            labels,
            lambda number: self.directories.create(
                number, lower[0] if lower else None, writable=kind == Kind.ACTIVE
            ),
        )
        if not is_extraction(key):
            found = await self._stacked(found)
        return self._mounts(found)

    async def _stacked(self, snapshot: Snapshot) -> Snapshot:
        """Stack the layers below a snapshot that is not there to unpack a layer into."""
        layers = _layers(self.metadata.ancestors(snapshot.parent))
        if not layers:
            return snapshot
        number, database = snapshot.id, self.directories.database
        task = StackTask(self.store, database, number, tuple(DiffID.parse(each) for each in layers))
        try:
            stack = await self._workers.run(stack_layers, task, f"snapshot {snapshot.key}")
        except StackerError:
            with suppress(StatusError):
                await self.remove(snapshot.key)
            raise
        found = self.metadata.get(snapshot.key)
        if len(layers) == len(self.metadata.ancestors(snapshot.parent)) and stack.directories:
            self.directories.adopt_root(number, stack.directories[0])
        return found

    async def mounts(self, key: str) -> list[Mount]:
        """Return the mounts of an active snapshot or a view.

        :raises StatusError: NOT_FOUND; FAILED_PRECONDITION for a committed one.
        """
        found = self.metadata.get(key)
        if found.kind == Kind.COMMITTED:
            raise StatusError(
                Code.FAILED_PRECONDITION,
                f"snapshot {key} is committed, want active or view: failed precondition",
            )
        return self._mounts(found)

    def _mounts(self, snapshot: Snapshot) -> list[Mount]:
        directories, read_only = self.directories, snapshot.kind == Kind.VIEW
        lower, plain = self._lower(snapshot)
        upper = directories.upper(snapshot.id)
        if not lower:
            return [bind_mount(upper, read_only=read_only)]
        if read_only and len(lower) == 1:
            if plain:
                return [bind_mount(lower[0], read_only=True)]
            lower = [upper, *lower]  # overlayfs requires two, and hides whiteouts
        if sum(len(os.fsencode(path)) + 1 for path in lower) > LONGEST_OPTION:
            lower = directories.short(snapshot.id, lower)
        pair = None if read_only else (upper, directories.work(snapshot.id))
        return [overlay_mount(lower, pair, is_trusted=directories.whiteout_format.is_trusted)]

    def _lower(self, snapshot: Snapshot) -> tuple[list[Path], bool]:
        """Return the lower directories, topmost first, and whether one of them alone is right."""
        ancestors = self.metadata.ancestors(snapshot.parent)
        if snapshot.chain_id is None:
            applied = [snapshot] if snapshot.diff_id else []
            return self._own_lower([*applied, *ancestors]), not applied
        stack = self.store.chains.read(ChainID.parse(snapshot.chain_id))
        above = ancestors[: len(ancestors) - len(_layers(ancestors))]
        return [*self._own_lower(above), *stack.directories], stack.plain

    def _own_lower(self, snapshots: Iterable[Snapshot]) -> list[Path]:
        """Return the directory of each snapshot or of its layer, without repairs and repetition."""
        found = (
            self.store.layers.paths(DiffID.parse(each.diff_id)).diff
            if each.diff_id
            else self.directories.upper(each.id)
            for each in snapshots
        )
        return list(dict.fromkeys(found))  # overlayfs refuses a directory that occurs twice

    def of_mounts(self, mounts: Sequence[Mount]) -> Snapshot | None:
        """Return the active snapshot that mounts belong to, or ``None`` if there is none."""
        if len(mounts) != 1:
            return None
        upper = mounts[0].upper
        if upper.name != "fs" or not upper.parent.name.isdecimal():
            return None
        number = int(upper.parent.name)
        if upper != self.directories.upper(number):
            return None
        found = self.metadata.by_id(number)
        return found if found is not None and found.kind == Kind.ACTIVE else None

    def has_layers_only(self, parent: str) -> bool:
        """Return whether a snapshot and all its ancestors are layers of the store."""
        ancestors = self.metadata.ancestors(parent)
        return len(_layers(ancestors)) == len(ancestors)

    async def commit(
        self, key: str, name: str, labels: Mapping[str, str], parent: str = ""
    ) -> None:
        """Turn an active snapshot into a committed one; see `Metadata.commit`."""
        found = self.metadata.get(key)
        usage = await self._measured(found)
        if found.diff_id and any(self.directories.upper(found.id).iterdir()):
            raise StatusError(
                Code.FAILED_PRECONDITION,
                f"snapshot {key} was written to after its layer was applied: failed precondition",
            )
        self.metadata.commit(key, name, labels, parent=parent, usage=usage)

    async def remove(self, key: str) -> None:
        """Remove a snapshot and its directory.

        :raises StatusError: NOT_FOUND; FAILED_PRECONDITION if it has children.
        """
        number = self.metadata.remove(key).id
        discarded = self.directories.discard(number)
        if discarded is not None and not _removed_if_empty(discarded):
            await self._workers.run(remove_path, discarded, f"snapshot {key}")

    async def stat(self, key: str) -> Snapshot:
        """Return a snapshot.

        :raises StatusError: NOT_FOUND.
        """
        return self.metadata.get(key)

    async def update(self, key: str, labels: Mapping[str, str], paths: Sequence[str]) -> Snapshot:
        """Change labels; see `Metadata.update`."""
        return self.metadata.update(key, labels, paths)

    async def select(self, texts: Iterable[str]) -> list[Snapshot]:
        """Return the snapshots that match any of several filters.

        :raises StatusError: INVALID_ARGUMENT for a malformed filter.
        """
        matches = filters.parsed(texts)
        return [each for each in self.metadata.all() if matches(each.field_value)]

    async def usage(self, key: str) -> tuple[int, int]:
        """Return the bytes and the inodes of a snapshot, without its parents.

        :raises StatusError: NOT_FOUND.
        """
        found = self.metadata.get(key)
        if found.kind == Kind.COMMITTED:
            return found.size, found.inodes
        return await self._measured(found)

    async def _measured(self, snapshot: Snapshot) -> tuple[int, int]:
        if snapshot.kind == Kind.VIEW:
            return 0, 0
        if snapshot.diff_id:
            return snapshot.size, snapshot.inodes
        upper = self.directories.upper(snapshot.id)
        return await self._workers.run(_usage, upper, f"snapshot {snapshot.key}")

    async def cleanup(self) -> None:
        """Remove what killed processes have left."""
        known = self.metadata.ids()
        for path in self.directories.snapshots.iterdir():
            if path.name.isdecimal() and int(path.name) not in known:
                self.directories.discard(int(path.name))
        self.directories.forget(known)
        for path in self.directories.trash.iterdir():
            await self._workers.run(remove_path, path, f"{path}")

    def close(self) -> None:
        """Close the database."""
        self.metadata.close()


def is_extraction(key: str) -> bool:
    """Return whether containerd unpacks a layer into a snapshot, and starts no container in it.

    Its metadata layer adds the namespace and a number to a key.
    """
    return key.split("/", 2)[-1].startswith("extract-")


def _layers(ancestors: Sequence[Snapshot]) -> list[str]:
    """Return the diff_ids of the layers of the store below all other snapshots, base first."""
    found = []
    for each in reversed(ancestors):
        if each.diff_id is None:
            break
        found.append(each.diff_id)
    return found


def _usage(directory: Path) -> tuple[int, int]:
    """Return the bytes on disk and the inodes of a tree."""
    sizes = [size for _, size in allocated(directory)]
    return sum(sizes), len(sizes)


def _removed_if_empty(directory: Path) -> bool:
    """Remove the directory of a snapshot without files, which needs no worker."""
    for path in (directory / "fs", directory / "work" / "work", directory / "work", directory):
        try:
            path.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True
