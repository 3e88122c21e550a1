"""The metadata of snapshots, in an SQLite database.

Keys, parents and labels come in; `Snapshot` values go out.  The rules and status codes are those of
containerd's core/snapshots/storage.  Every change is one transaction that reaches the disk before
the call returns, so a snapshot exists completely or not at all.  This module does not use the
directories of snapshots.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Final

from stacker.containerd.status import Code, StatusError

_TIMEOUT: Final = 30.0  # seconds to wait for a worker's transaction
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS snapshots (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    parent INTEGER REFERENCES snapshots (id),
    kind INTEGER NOT NULL,
    labels TEXT NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    size INTEGER NOT NULL DEFAULT 0,
    inodes INTEGER NOT NULL DEFAULT 0,
    diff_id TEXT,
    chain_id TEXT
);
CREATE INDEX IF NOT EXISTS children ON snapshots (parent);
CREATE TABLE IF NOT EXISTS blobs (
    digest TEXT NOT NULL,
    diff_id TEXT NOT NULL,
    UNIQUE (digest, diff_id)
);
"""
_SELECT: Final = """\
SELECT s.id, s.key, coalesce(p.key, ''), s.kind, s.labels, s.created, s.updated, s.size, s.inodes,
    s.diff_id, s.chain_id
FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent
"""
_LINE: Final = """
WITH RECURSIVE line (id, parent, depth) AS (
    SELECT id, parent, 0 FROM snapshots WHERE key = ?
    UNION ALL SELECT n.id, n.parent, depth + 1 FROM snapshots n JOIN line ON n.id = line.parent
)
"""
_BY_DEPTH: Final = "JOIN line ON line.id = s.id ORDER BY line.depth"
_ANCESTORS: Final = _LINE + _SELECT + _BY_DEPTH


class Kind(IntEnum):
    """The kind of a snapshot, with the numbers of containerd's API."""

    VIEW = 1
    ACTIVE = 2
    COMMITTED = 3


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One snapshot.

    :param id: its number, which names its directory and is never used again.
    :param key: its key, or its name after a commit.
    :param parent: the name of its parent; empty without one.
    :param created: nanoseconds since 1970.
    :param updated: nanoseconds since 1970.
    :param size: bytes on disk of a committed snapshot, without its parents.
    :param inodes: their number.
    :param diff_id: the layer of the store that the snapshot contains, as text.
    :param chain_id: the chain of the store that a mount of the snapshot uses, as text.
    """

    id: int
    key: str
    parent: str
    kind: Kind
    labels: Mapping[str, str] = field(default_factory=dict)
    created: int = 0
    updated: int = 0
    size: int = 0
    inodes: int = 0
    diff_id: str | None = None
    chain_id: str | None = None

    def field_value(self, path: tuple[str, ...]) -> str | None:
        """Return the value of a field of containerd's filters, or ``None`` if it is absent."""
        match path:
            case ("kind", *_):
                return self.kind.name.lower()
            case ("name", *_):
                return self.key
            case ("parent", *_):
                return self.parent
            case ("labels", *words):
                return self.labels.get(".".join(words))
            case _:
                return None


class Metadata:
    """The database; one object for each process, because SQLite's connections do not survive fork.

    :param path: the file, which is created if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, timeout=_TIMEOUT, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("PRAGMA foreign_keys = ON")
        self._database.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def _find(self, key: str) -> Snapshot | None:
        row = self._database.execute(f"{_SELECT} WHERE s.key = ?", (key,)).fetchone()
        return None if row is None else _snapshot(row)

    def get(self, key: str) -> Snapshot:
        """Return a snapshot.

        :raises StatusError: NOT_FOUND.
        """
        found = self._find(key)
        if found is None:
            raise StatusError(Code.NOT_FOUND, f"snapshot {key} does not exist: not found")
        return found

    def by_id(self, number: int) -> Snapshot | None:
        """Return the snapshot with an ID, or ``None``."""
        row = self._database.execute(f"{_SELECT} WHERE s.id = ?", (number,)).fetchone()
        return None if row is None else _snapshot(row)

    def ancestors(self, key: str) -> list[Snapshot]:
        """Return a snapshot and its ancestors, the base last."""
        return [_snapshot(row) for row in self._database.execute(_ANCESTORS, (key,))]

    def all(self) -> list[Snapshot]:
        """Return every snapshot, in the order of their keys."""
        return [_snapshot(row) for row in self._database.execute(f"{_SELECT} ORDER BY s.key")]

    def ids(self) -> set[int]:
        """Return the IDs of all snapshots."""
        return {number for (number,) in self._database.execute("SELECT id FROM snapshots")}

    def create(
        self,
        kind: Kind,
        key: str,
        parent: str,
        labels: Mapping[str, str],
        prepare: Callable[[int], None] = lambda _: None,
    ) -> Snapshot:
        """Add an active snapshot or a view.

        :param prepare: makes the directories of the ID; if it fails, nothing is added.
        :raises StatusError: NOT_FOUND or INVALID_ARGUMENT for the parent, ALREADY_EXISTS.
        """
        _check_key(key)
        now = time.time_ns()
        with self._transaction():
            above = self._committed(parent) if parent else None
            if self._find(key) is not None:
                raise StatusError(Code.ALREADY_EXISTS, f"snapshot {key}: already exists")
            number = self._insert(key, above, kind, labels, now)
            prepare(number)
        return Snapshot(number, key, parent, kind, dict(labels), now, now)

    def _insert(
        self, key: str, above: Snapshot | None, kind: Kind, labels: Mapping[str, str], now: int
    ) -> int:
        values = (key, above and above.id, kind, json.dumps(dict(labels)), now, now)
        added = self._database.execute(
            "INSERT INTO snapshots (key, parent, kind, labels, created, updated) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            values,
        )
        return added.lastrowid or 0

    def _committed(self, parent: str) -> Snapshot:
        found = self._find(parent)
        if found is None:
            raise StatusError(Code.NOT_FOUND, f"missing parent {parent}: not found")
        if found.kind != Kind.COMMITTED:
            raise StatusError(
                Code.INVALID_ARGUMENT,
                f"parent {parent} is not a committed snapshot: invalid argument",
            )
        return found

    def commit(
        self,
        key: str,
        name: str,
        labels: Mapping[str, str],
        *,
        parent: str = "",
        usage: tuple[int, int] = (0, 0),
    ) -> Snapshot:
        """Turn an active snapshot into a committed one, with the given labels alone.

        :param parent: the parent of the committed snapshot; empty to keep the one it has.  Only a
            snapshot without a parent can get one.
        :param usage: bytes and inodes.
        :raises StatusError: ALREADY_EXISTS for the name, NOT_FOUND, FAILED_PRECONDITION, or
            INVALID_ARGUMENT for the parent.
        """
        _check_key(name)
        now = time.time_ns()
        with self._transaction():
            if self._find(name) is not None:
                raise StatusError(Code.ALREADY_EXISTS, f"committed snapshot {name}: already exists")
            found = self.get(key)
            if found.kind != Kind.ACTIVE:
                raise StatusError(
                    Code.FAILED_PRECONDITION, f"snapshot {key} is not active: failed precondition"
                )
            above = self._committed(found.parent or parent) if found.parent or parent else None
            if parent and found.parent not in {"", parent}:
                raise StatusError(
                    Code.INVALID_ARGUMENT,
                    f"cannot change the parent of {key}: got {parent}, want {found.parent}: "
                    "invalid argument",
                )
            self._database.execute(
                "UPDATE snapshots SET key = ?, parent = ?, kind = ?, labels = ?, created = ?, "
                "updated = ?, size = ?, inodes = ?, chain_id = NULL WHERE id = ?",
                (
                    *(name, above and above.id, Kind.COMMITTED, json.dumps(dict(labels))),
                    *(now, now, *usage, found.id),
                ),
            )
        return self.get(name)

    def remove(self, key: str) -> Snapshot:
        """Remove a snapshot without children, and return what it was.

        :raises StatusError: NOT_FOUND; FAILED_PRECONDITION if it has children.
        """
        with self._transaction():
            found = self.get(key)
            child = self._database.execute(
                "SELECT key FROM snapshots WHERE parent = ? LIMIT 1", (found.id,)
            ).fetchone()
            if child is not None:
                # containerd's garbage collection searches the text for "remove".
                raise StatusError(
                    Code.FAILED_PRECONDITION,
                    f"cannot remove snapshot with child {child[0]}: failed precondition",
                )
            self._database.execute("DELETE FROM snapshots WHERE id = ?", (found.id,))
        return found

    def update(self, key: str, labels: Mapping[str, str], paths: Sequence[str]) -> Snapshot:
        """Change labels.

        :param paths: ``labels``, or ``labels.NAME`` for single ones; empty for all labels.
        :raises StatusError: NOT_FOUND; INVALID_ARGUMENT for another path.
        """
        with self._transaction():
            changed = dict(self.get(key).labels)
            for path in paths or ["labels"]:
                if path == "labels":
                    changed = dict(labels)
                elif path.startswith("labels."):
                    name = path.removeprefix("labels.")
                    changed[name] = labels.get(name, "")
                else:
                    raise StatusError(
                        Code.INVALID_ARGUMENT,
                        f"cannot update field {path} of snapshot {key}: invalid argument",
                    )
            # A label that is set to nothing is removed, as containerd's boltutil does.
            kept = {name: value for name, value in changed.items() if value}
            self._database.execute(
                "UPDATE snapshots SET labels = ?, updated = ? WHERE key = ?",
                (json.dumps(kept), time.time_ns(), key),
            )
        return self.get(key)

    def set_layer(self, number: int, diff_id: str, usage: tuple[int, int]) -> None:
        """Record that a snapshot contains a layer of the store.

        :param usage: the bytes and the entries of the layer.
        """
        self._change(
            "UPDATE snapshots SET diff_id = ?, size = ?, inodes = ? WHERE id = ?",
            (diff_id, *usage, number),
        )

    def set_chain(self, number: int, chain_id: str) -> None:
        """Record that a mount of a snapshot uses a chain of the store."""
        self._change("UPDATE snapshots SET chain_id = ? WHERE id = ?", (chain_id, number))

    def _change(self, statement: str, values: tuple[object, ...]) -> None:
        if self._database.execute(statement, values).rowcount == 0:
            raise StatusError(Code.NOT_FOUND, "the snapshot was removed meanwhile: not found")

    def remember(self, diff_id: str, blobs: Iterable[str]) -> None:
        """Record the compressed blobs of a layer, or that none is known."""
        for blob in (*blobs, ""):
            self._database.execute("INSERT OR IGNORE INTO blobs VALUES (?, ?)", (blob, diff_id))

    def remembered(self) -> set[str]:
        """Return the diff_ids of all layers that `remember` got."""
        return {each for (each,) in self._database.execute("SELECT DISTINCT diff_id FROM blobs")}

    def layer_of(self, blob: str) -> str | None:
        """Return the diff_id of the layer that a blob contains, if it is known."""
        row = self._database.execute(
            "SELECT diff_id FROM blobs WHERE digest = ?", (blob,)
        ).fetchone()
        return None if row is None else str(row[0])


@contextmanager
def opened(path: Path) -> Iterator[Metadata]:
    """Open the database for the block, in a worker process."""
    with closing(Metadata(path)) as metadata:
        yield metadata


def _check_key(key: str) -> None:
    if not key:
        raise StatusError(Code.INVALID_ARGUMENT, "the key of a snapshot is empty: invalid argument")


def _snapshot(row: Sequence[object]) -> Snapshot:
    number, key, parent, kind, labels, *rest = row
    return Snapshot(number, key, parent, Kind(kind), json.loads(str(labels)), *rest)  # type: ignore[arg-type]
