"""Containerd's snapshots service: its ten calls, without a transport.

Keys, names and labels come in; mounts, `Snapshot` values and `StatusError` go out.  The database
decides what exists: a directory without a row is left over from a killed process, and `cleanup`
removes it.  This module must not know gRPC.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from stacker.containerd import filters
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
from stacker.linux.removal import remove_path
from stacker.operations.usage import allocated
from stacker.store.store import Store


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
        self._is_trusted = store.whiteout_format.is_trusted

    async def prepare(self, key: str, parent: str, labels: Mapping[str, str]) -> list[Mount]:
        """Create an active snapshot, and return its mounts.

        :raises StatusError: NOT_FOUND, INVALID_ARGUMENT or ALREADY_EXISTS.
        """
        return await self._create(Kind.ACTIVE, key, parent, labels)

    async def view(self, key: str, parent: str, labels: Mapping[str, str]) -> list[Mount]:
        """Create a read-only snapshot, and return its mounts; errors as for `prepare`."""
        return await self._create(Kind.VIEW, key, parent, labels)

    async def _create(
        self, kind: Kind, key: str, parent: str, labels: Mapping[str, str]
    ) -> list[Mount]:
        lower = self._lower(self.metadata.ancestors(parent))
        found = self.metadata.create(
            kind,
            key,
            parent,
            labels,
            lambda number: self.directories.create(
                number, lower[0] if lower else None, writable=kind == Kind.ACTIVE
            ),
        )
        return self._mounts(found)

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
        lower = self._lower(self.metadata.ancestors(snapshot.key)[1:])
        upper = directories.upper(snapshot.id)
        if not lower:
            return [bind_mount(upper, read_only=read_only)]
        if read_only and len(lower) == 1:
            return [bind_mount(lower[0], read_only=True)]
        if sum(len(os.fsencode(path)) + 1 for path in lower) > LONGEST_OPTION:
            lower = directories.short(snapshot.id, lower)
        pair = None if read_only else (upper, directories.work(snapshot.id))
        return [overlay_mount(lower, pair, is_trusted=self._is_trusted)]

    def _lower(self, ancestors: Iterable[Snapshot]) -> list[Path]:
        """Return the lower directories of a snapshot, topmost first."""
        return [self.directories.upper(each.id) for each in ancestors]

    async def commit(
        self, key: str, name: str, labels: Mapping[str, str], parent: str = ""
    ) -> None:
        """Turn an active snapshot into a committed one; see `Metadata.commit`."""
        found = self.metadata.get(key)
        usage = await self._measured(found)
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
