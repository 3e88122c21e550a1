"""Indexes that `stacker index` created: several images under one name.

    $STORE/indexes/<SHA-256 of the name>.json   name, digest of the document, origins of members
    $STORE/blobs/<algorithm>/<hex>              the document, an OCI image index

A document never changes; a changed index gets a new document.  This module records the origins of
the members, and does not read them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from stacker.errors import IntegrityError, NotFoundError, UnsupportedError, UsageError
from stacker.image.digest import Digest
from stacker.image.document import parse_object, quoted, required, string_map, to_bytes
from stacker.image.manifest import Index, parse_document
from stacker.linux import lock
from stacker.linux.filesystem import write_atomically
from stacker.store.blobs import BlobStore

VERSION = 1
_LONGEST = 255


@dataclass(frozen=True, slots=True)
class StoredIndex:
    """An index of the store.

    :param content: the bytes of the document.
    :param origins: the origin of each member by its digest: an image ID of the store, or
        ``docker://HOST/REPO@DIGEST``.
    """

    name: str
    content: bytes
    index: Index
    origins: Mapping[str, str] = field(hash=False)

    @property
    def digest(self) -> Digest:
        """The digest of the document."""
        return Digest.of(self.content)


@dataclass(frozen=True, slots=True)
class IndexStore:
    """The directory ``indexes/`` of the store at ``root``."""

    root: Path
    blobs: BlobStore

    def write_lock(self) -> AbstractContextManager[object]:
        """Take the exclusive lock that every change needs."""
        return lock.exclusive(self.root / "indexes.lock")

    def all(self, report: Callable[[str], object] = lambda _: None) -> list[StoredIndex]:
        """Return every index, sorted by name.

        :param report: called with a message for each damaged index, which hides no other one.
        :raises UnsupportedError: a newer version of stacker wrote one of them.
        """
        found = []
        for path in self._folder.glob("*.json"):
            try:
                found.append(self._read(path))
            except (IntegrityError, NotFoundError) as error:
                if path.exists():  # else another process has removed it
                    report(error.message)
        return sorted(found, key=lambda index: index.name)

    def damaged(self) -> list[Path]:
        """Return the records of the damaged indexes.  The caller holds :meth:`write_lock`."""
        return [path for path in self._folder.glob("*.json") if self._document(path) is None]

    def find(self, name: str) -> StoredIndex:
        """Return the index of a name.

        :raises NotFoundError: the store has no such index.
        :raises IntegrityError: the index on disk is damaged.
        """
        return self._read(self.require(name))

    def require(self, name: str) -> Path:
        """Return the record of an index, damaged or not.

        :raises NotFoundError: the store has no such index.
        """
        path = self._path(name)
        if not path.exists():
            raise NotFoundError(
                f"no such index: {quoted(name)}",
                hint="`stacker index list` lists the indexes in the store",
            )
        return path

    def _read(self, path: Path) -> StoredIndex:
        name, digest, origins = self._record(path)
        try:
            content = self.blobs.read(digest)
        except NotFoundError:
            if self._record(path)[1] != digest:  # another process has changed it meanwhile
                return self._read(path)
            raise
        index = parse_document(content, media_type=None, what=f"index {digest}")
        if not isinstance(index, Index):
            raise IntegrityError(f"damaged store: {path}: got a manifest, want an index")
        return StoredIndex(name, content, index, origins)

    def has(self, name: str) -> bool:
        """Return whether the store has an index of this name."""
        return self._path(name).exists()

    def put(self, name: str, index: Index, origins: Mapping[str, str]) -> StoredIndex:
        """Write an index, and replace one of the same name.

        The caller holds :meth:`write_lock`.

        :raises UsageError: the name is malformed.
        """
        _check_name(name)
        content = to_bytes(index.to_json())
        fresh = StoredIndex(name, content, index, origins)
        before = self._document(self._path(name)) if self.has(name) else None
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self.blobs.write(fresh.digest, content)
        members = {
            "version": VERSION,
            "name": name,
            "document": str(fresh.digest),
            "origins": dict(origins),
        }
        write_atomically(self._path(name), json.dumps(members, indent=1).encode(), durable=True)
        self._forget(before)
        return fresh

    def remove(self, name: str) -> None:
        """Remove an index, damaged or not.  The caller holds :meth:`write_lock`.

        :raises NotFoundError: the store has no such index.
        """
        path = self.require(name)
        document = self._document(path)
        path.unlink()
        self._forget(document)

    @property
    def _folder(self) -> Path:
        return self.root / "indexes"

    def _path(self, name: str) -> Path:
        return self._folder / f"{Digest.of(name.encode()).hex}.json"

    def _record(self, path: Path) -> tuple[str, Digest, dict[str, str]]:
        what = str(path)
        try:
            members = parse_object(path.read_bytes(), what)
        except FileNotFoundError:
            raise NotFoundError(f"no such index: {what}") from None
        if (version := required(members, "version", int, what)) != VERSION:
            raise UnsupportedError(
                f"unknown index record: {what}: got version {version}, want version {VERSION}",
                hint="update stacker: a newer version wrote it",
            )
        return (
            required(members, "name", str, what),
            Digest.parse(required(members, "document", str, what)),
            string_map(members, "origins", what),
        )

    def _document(self, path: Path) -> Digest | None:
        """Return the digest of an index; ``None`` if the index is damaged."""
        try:
            return self._read(path).digest
        except (IntegrityError, NotFoundError):
            return None

    def _forget(self, digest: Digest | None) -> None:
        """Remove a document unless another index uses it."""
        used = {self._document(path) for path in self._folder.glob("*.json")}
        if digest is not None and digest not in used:
            self.blobs.path(digest).unlink(missing_ok=True)


def _check_name(name: str) -> None:
    if not 0 < len(name) <= _LONGEST or not name.isprintable() or " " in name or "://" in name:
        raise UsageError(
            f"malformed name: got {quoted(name)}, want 1 to {_LONGEST} characters without blanks",
            hint="use a name such as app:1.0",
        )
