"""The mount table on disk: a directory per mount, with its record and its discarded writes.

The parent of these directories comes in; directories for new mounts, and entries with the state of
each recorded mount, go out.  This module makes no mount, and must not use a driver.

    <mounts>/<id>/mount.json    the record, written before the mount is made
    <mounts>/<id>/upper, work   writes that are discarded at unmount
    <mounts>/<id>/empty         an empty directory
    <mounts>/<id>/rootfs        the mount point of `stacker run`, beside the runtime's files
    <mounts>/<id>/run           locked while the command runs that the mount ends with

A process that makes, undoes or clears a mount holds a `flock` on its directory.  A directory that
is not locked and has no valid record is the leftover of a crash.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, LockedError
from stacker.linux import lock, process
from stacker.linux.removal import remove_tree
from stacker.mount.plan import new_id, source_of
from stacker.mount.record import MountRecord, parse
from stacker.mount.state import KernelView, State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stacker.linux.lock import Lock

_RECORD = "mount.json"
_RUN = "run"


@dataclass(frozen=True, slots=True)
class MountDirectory:
    """The directory ``mounts/<id>`` of a mount; ``id`` is the ID of the mount."""

    id: str
    path: Path


@dataclass(frozen=True, slots=True)
class Entry:
    """A recorded mount and its state."""

    record: MountRecord
    state: State


class Table:
    """The mounts of one store.

    :param directory: the parent of all mount directories; created when it is first needed.
    """

    __slots__ = ("directory",)

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @contextmanager
    def new_directory(self) -> Iterator[MountDirectory]:
        """Create and lock a directory for a new mount; remove it if the block fails.

        :raises OSError: the directory cannot be created.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        created, held = self._create()
        with held:
            try:
                yield created
            except BaseException:
                remove_tree(created.path, missing_ok=True)
                raise

    @contextmanager
    def locked(self, identifier: str, *, wait: bool = False) -> Iterator[None]:
        """Lock a mount's directory, so that the mount can be undone.

        :param wait: wait for the lock, which even a process that lists mounts holds for a moment.
        :raises LockedError: another process holds the lock, or the directory is gone.
        """
        held = self._lock(identifier, wait=wait)
        if held is None:
            raise LockedError(
                f"mount is in use: {identifier}: another process is mounting or unmounting it",
                hint="try again",
            )
        with held:
            yield

    def hold_for_run(self, identifier: str) -> Lock:
        """Keep a mount with `MountRecord.runtime` from being stale until the lock is released.

        The caller holds the lock on the mount's directory.

        :raises OSError: the lock file cannot be created.
        """
        return lock.exclusive(self.directory / identifier / _RUN)

    def write_process(self, identifier: str, pid: int) -> None:
        """Record the process that must end with a run, until the mount's directory is removed."""
        with suppress(OSError):  # it has ended
            text = f"{pid} {process.start_time(pid)}"
            (self.directory / identifier / _RUN).write_text(text, "ascii")

    def kill_process(self, identifier: str) -> None:
        """Kill the process of a run whose command was killed, if it still exists."""
        with suppress(OSError, ValueError):  # none was recorded
            pid, started = (self.directory / identifier / _RUN).read_text("ascii").split()
            process.kill(int(pid), int(started))

    def state(self, record: MountRecord, view: KernelView) -> State:
        """Return the state of a mount whose directory the caller has locked."""
        if record.runtime is not None and not self._is_locked(record.id, _RUN):
            return "stale"
        return view.state(record)

    def write(self, record: MountRecord) -> None:
        """Write a record to its directory, completely or not at all.

        :raises OSError: the record cannot be written.
        """
        directory = self.directory / record.id
        draft = directory / f".{_RECORD}"
        draft.write_bytes(record.to_bytes())
        draft.replace(directory / _RECORD)

    def read(self, identifier: str) -> MountRecord | None:
        """Read the record of a mount; return ``None`` when it is missing or malformed.

        :raises UnsupportedError: a later version of this program wrote the record.
        """
        path = self.directory / identifier / _RECORD
        try:
            return parse(path.read_bytes(), path)
        except (FileNotFoundError, NotADirectoryError, IntegrityError):
            return None

    def entries(self) -> list[Entry]:
        """Return the recorded mounts, oldest first; none if the table does not exist.

        :raises OSError: the table cannot be read.
        :raises UnsupportedError: a later version of this program wrote one of the records.
        """
        records = [record for name in self._names() if (record := self.read(name)) is not None]
        records.sort(key=lambda record: (record.created, record.id))
        return self._entries(records)

    def entry(self, identifier: str) -> Entry | None:
        """Return the mount with an ID.

        :raises UnsupportedError: a later version of this program wrote the record.
        """
        record = self.read(identifier)
        return None if record is None else self._entries([record])[0]

    def find(self, target: Path) -> Entry | None:
        """Return the mount at a mount point; a live mount takes precedence over a stale one.

        :param target: absolute.
        :raises UnsupportedError: a later version of this program wrote one of the records.
        """
        precedence = ("mounted", "incomplete", "busy", "elsewhere", "stale")
        records = (self.read(name) for name in self._names())
        at_target = [record for record in records if record is not None and record.target == target]
        return min(
            self._entries(at_target), key=lambda entry: precedence.index(entry.state), default=None
        )

    def remove(self, identifier: str) -> None:
        """Remove a mount's directory and all writes in it; the caller holds its lock.

        :raises OSError: a file cannot be removed.
        """
        remove_tree(self.directory / identifier, missing_ok=True)

    def abandoned(self) -> list[str]:
        """Return the IDs of directories without a record, a lock and a mount."""
        return [name for name, point in self._unrecorded().items() if point is None]

    def unrecorded(self) -> dict[Path, Path]:
        """Return the mount points of mounts whose record is damaged, by the path of the record."""
        points = self._unrecorded().items()
        return {self.directory / name / _RECORD: at for name, at in points if at is not None}

    def is_readable(self) -> bool:
        """Return whether every directory that is not locked has a valid record."""
        return not self._unreadable()

    def _unreadable(self) -> list[str]:
        # In this order, since a process writes the record before it releases the lock.
        free = [name for name in self._names() if not self._is_locked(name)]
        return [name for name in free if self.read(name) is None]

    def _unrecorded(self) -> dict[str, Path | None]:
        unknown = self._unreadable()
        mounts = KernelView().mounts.mounts if unknown else ()
        points = {mount.source: mount.mount_point for mount in mounts}
        return {name: points.get(source_of(name)) for name in unknown}

    def _create(self) -> tuple[MountDirectory, Lock]:
        while True:
            identifier = new_id()
            path = self.directory / identifier
            # FileNotFoundError: another process cleared the directory before it was locked.
            with suppress(FileExistsError, FileNotFoundError):
                path.mkdir(mode=0o700)
                return MountDirectory(identifier, path), lock.exclusive(path, create=False)

    def _lock(self, identifier: str, *, wait: bool) -> Lock | None:
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
        # Locks before mounts: in the other order, a mount that is made meanwhile has neither.
        busy = {record.id for record in records if self._is_locked(record.id)}
        view = KernelView()
        return [
            Entry(record, "busy" if record.id in busy else self.state(record, view))
            for record in records
        ]

    def _is_locked(self, identifier: str, file: str = "") -> bool:
        try:
            probe = lock.try_shared(self.directory / identifier / file, create=False)
        except OSError:
            return False
        if probe is None:
            return True
        probe.release()
        return False
