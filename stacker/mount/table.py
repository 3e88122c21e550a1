"""What is mounted, on disk: a directory for each mount, with its record and its writes.

In comes the directory that holds them all; out go rooms to make a mount in, and entries that say
what became of each.  Knows drivers by name only and makes no mount.

    <mounts>/<id>/mount.json    the record, written before the mount is made
    <mounts>/<id>/upper, work   writes that are thrown away
    <mounts>/<id>/empty         a directory without anything in it

Whoever makes, undoes or clears a mount holds a `flock` on its directory.  A directory that is not
locked and has no readable record is what a crash left behind.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, LockedError
from stacker.linux import lock
from stacker.linux.removal import remove_tree
from stacker.mount.plan import new_id, source_of
from stacker.mount.record import MountRecord, parse
from stacker.mount.state import KernelView, State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stacker.linux.lock import Lock

_RECORD = "mount.json"


@dataclass(frozen=True, slots=True)
class Room:
    """The directory of a mount that is being made; its name is the mount's id."""

    id: str
    path: Path


@dataclass(frozen=True, slots=True)
class Entry:
    """A recorded mount, and how it is now."""

    record: MountRecord
    state: State


class Table:
    """The mounts that were made with one directory.

    :param directory: the parent of all rooms; made when first needed.
    """

    __slots__ = ("directory",)

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @contextmanager
    def new_room(self) -> Iterator[Room]:
        """Make a directory for a new mount, locked for the block, and gone if the block fails.

        :raises OSError: when it cannot be made.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        room, held = self._claim()
        with held:
            try:
                yield room
            except BaseException:
                remove_tree(room.path, missing_ok=True)
                raise

    @contextmanager
    def held(self, identifier: str, *, wait: bool = False) -> Iterator[None]:
        """Hold the lock on a mount's directory, so that it can be undone.

        :param wait: wait for the lock; even looking at a mount holds it for a moment.
        :raises LockedError: somebody holds it, or the directory is gone.
        """
        taken = self._take(identifier, wait=wait)
        if taken is None:
            raise LockedError(f"mount is being made or undone: {identifier}")
        with taken:
            yield

    def write(self, record: MountRecord) -> None:
        """Write a record into its room, whole or not at all.

        :raises OSError: when it cannot be written.
        """
        room = self.directory / record.id
        draft = room / f".{_RECORD}"
        draft.write_bytes(record.to_bytes())
        draft.replace(room / _RECORD)

    def read(self, identifier: str) -> MountRecord | None:
        """Read the record of a mount; ``None`` when there is none that can be read.

        :raises UnsupportedError: a later version wrote it.
        """
        path = self.directory / identifier / _RECORD
        try:
            return parse(path.read_bytes(), path)
        except (FileNotFoundError, NotADirectoryError, IntegrityError):
            return None

    def entries(self) -> list[Entry]:
        """List the recorded mounts, oldest first.

        :raises OSError: the table cannot be read; one that is not there is empty.
        :raises UnsupportedError: a later version wrote one of the records.
        """
        records = [record for name in self._names() if (record := self.read(name)) is not None]
        records.sort(key=lambda record: (record.created, record.id))
        return self._entries(records)

    def entry(self, identifier: str) -> Entry | None:
        """Look one mount up by its id.

        :raises UnsupportedError: a later version wrote the record.
        """
        record = self.read(identifier)
        return None if record is None else self._entries([record])[0]

    def find(self, target: Path) -> Entry | None:
        """Look a mount up by its target; one that is still there comes before those that are not.

        :param target: absolute.
        :raises UnsupportedError: a later version wrote one of the records.
        """
        rank = ("mounted", "busy", "elsewhere", "stale")
        records = (self.read(name) for name in self._names())
        here = [record for record in records if record is not None and record.target == target]
        return min(self._entries(here), key=lambda entry: rank.index(entry.state), default=None)

    def remove(self, identifier: str) -> None:
        """Remove a mount's directory and all writes in it; the caller holds its lock.

        :raises OSError: when something in it cannot be removed.
        """
        remove_tree(self.directory / identifier, missing_ok=True)

    def abandoned(self) -> list[str]:
        """List the ids of rooms without a record, which nobody holds and no mount here bears."""
        # In this order: who finishes meanwhile has written a record before letting go.
        free = [name for name in self._names() if not self._is_locked(name)]
        unknown = [name for name in free if self.read(name) is None]
        mounted = {mount.source for mount in KernelView().mounts.mounts} if unknown else set()
        return [name for name in unknown if source_of(name) not in mounted]

    def _claim(self) -> tuple[Room, Lock]:
        while True:
            identifier = new_id()
            path = self.directory / identifier
            # The other case of FileNotFoundError: somebody swept the room before it was locked.
            with suppress(FileExistsError, FileNotFoundError):
                path.mkdir(mode=0o700)
                return Room(identifier, path), lock.exclusive(path, create=False)

    def _take(self, identifier: str, *, wait: bool) -> Lock | None:
        path = self.directory / identifier
        try:
            if wait:
                return lock.exclusive(path, create=False)
            return lock.try_exclusive(path, create=False)
        except FileNotFoundError:
            return None

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self.directory))
        except FileNotFoundError:
            return []

    def _entries(self, records: list[MountRecord]) -> list[Entry]:
        # First who is at work, then what is mounted: asked the other way round, a mount that is
        # made meanwhile is neither.
        busy = {record.id for record in records if self._is_locked(record.id)}
        view = KernelView()
        return [
            Entry(record, "busy" if record.id in busy else view.state(record)) for record in records
        ]

    def _is_locked(self, identifier: str) -> bool:
        try:
            probe = lock.try_shared(self.directory / identifier, create=False)
        except OSError:
            return False
        if probe is None:
            return True
        probe.release()
        return False
