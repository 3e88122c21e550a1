"""Unpacked layers by diff_id.

`LayerStore` locks a layer for its puller, its readers or its removal, and returns its paths.  A
layer gets its name by a rename after both digests matched, so an existing layer is complete.  One
process unpacks a layer while others wait; readers share a lock that prevents its removal.  A layer
that only an additional store has is used there, and never changed.  This module does not unpack.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.errors import LockedError, NotFoundError
from stacker.image.digest import DiffID, Digest
from stacker.layer.paths import Form, LayerPaths
from stacker.linux import lock
from stacker.linux.filesystem import exchange, sync_filesystem, write_atomically
from stacker.linux.lock import ByteLocks
from stacker.linux.removal import remove_tree
from stacker.store.disk_mark import DiskMark
from stacker.store.staging import Staging

if TYPE_CHECKING:
    from stacker.layer.record import LayerRecord

_REPLACED = ".replaced-"
_FILES: dict[Form, tuple[str, ...]] = {
    "tree": ("diff", "skeleton", "replaced", "seals"),
    "erofs": ("index", "tar", "index_checksum"),
}
"""The parts of `LayerPaths` that each form has; both share the checksums."""


@dataclass(frozen=True, slots=True)
class LayerStore:
    """The directory ``layers/`` of a store.

    :param changing: `root`, or where a read-only store records which layers it has verified.
    :param additional: the same directories of the additional stores.
    """

    root: Path
    staging: Staging
    changing: Path
    additional: tuple[Path, ...] = ()

    def own_paths(self, diff_id: DiffID) -> LayerPaths:
        """Return the paths that a layer has in this store, whether or not it is there."""
        return LayerPaths(self.root / diff_id.algorithm / diff_id.hex)

    def paths(self, diff_id: DiffID) -> LayerPaths:
        """Return the paths of a layer in this store, or else in an additional store."""
        own = self.own_paths(diff_id)
        if not self.additional or own.root.exists():
            return own
        others = (LayerPaths(each / diff_id.algorithm / diff_id.hex) for each in self.additional)
        return next((paths for paths in others if paths.root.exists()), own)

    @property
    def _is_read_only(self) -> bool:
        return self.root != self.changing

    def is_own(self, diff_id: DiffID) -> bool:
        """Return whether this store has a layer that it can change."""
        return not self._is_read_only and self.own_paths(diff_id).root.exists()

    def has(self, diff_id: DiffID) -> bool:
        """Return whether a layer is in the store."""
        return self.paths(diff_id).root.exists()

    def record(self, diff_id: DiffID) -> LayerRecord:
        """Return the record of a layer.

        :raises NotFoundError: the layer is not in the store.
        :raises IntegrityError: the record is damaged.
        """
        from stacker.layer.record import LayerRecord  # most mounts do not read records

        path = self.paths(diff_id).record
        try:
            return LayerRecord.from_json(path.read_bytes(), f"{path}")
        except FileNotFoundError:
            raise NotFoundError(
                f"no such layer in the store: {diff_id}",
                hint="pull the image again with `stacker pull`",
            ) from None

    @contextmanager
    def unpacking(self, diff_id: DiffID, *, replace: bool = False) -> Iterator[LayerPaths | None]:
        """Lock a layer, and yield the paths to unpack it to.

        Without a :meth:`commit`, the end of the context removes them.

        :param replace: unpack the layer even if the store has it; :meth:`commit` exchanges them.
        Yields ``None`` if another process has unpacked the layer meanwhile.
        """
        with self.staging.locked(f"{diff_id.algorithm}-{diff_id.hex}") as path:
            if self.own_paths(diff_id).root.exists() and not replace:
                yield None
                return
            path.mkdir(mode=0o700)
            yield LayerPaths(path)

    @contextmanager
    def unpacking_blob(self, blob: Digest) -> Iterator[LayerPaths]:
        """Lock a blob whose diff_id is unknown, and yield the paths to unpack it to.

        The caller calls :meth:`commit` inside :meth:`unpacking` of the computed diff_id.  Without
        it, the end of the context removes the paths.
        """
        with self.staging.locked(f"blob-{blob.algorithm}-{blob.hex}") as path:
            path.mkdir(mode=0o700)
            yield LayerPaths(path)

    def commit(
        self, diff_id: DiffID, paths: LayerPaths, record: LayerRecord, *, sync: bool
    ) -> None:
        """Write the record of an unpacked layer, and rename it to its diff_id.

        :param sync: flush the filesystem to disk before and after the rename, and mark the layer
            durable.
        """
        paths.record.write_bytes(record.to_json())
        paths.root.chmod(0o700)
        DiskMark(paths.root).write(sync=sync)
        final = self.own_paths(diff_id).root
        final.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            paths.root.rename(final)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            self._replace(paths.root, final)
        if sync:
            sync_filesystem(final.parent)

    def adopt(self, diff_id: DiffID, staged: LayerPaths, record: LayerRecord, form: Form) -> None:
        """Give a layer of the store one more form; its lock is held, by :meth:`unpacking`.

        :param staged: the layer in that form, flushed to disk.
        :param record: the record of both forms.
        """
        paths = self.own_paths(diff_id)
        names = _FILES[form]
        for name in reversed(names):  # the first one makes the form visible
            if name == names[0]:
                write_atomically(paths.record, record.to_json(), durable=True)
            source, target = getattr(staged, name), getattr(paths, name)
            if target.is_dir():
                remove_tree(target)  # a killed process left it; rename(2) replaces a file
            if source.exists():
                source.rename(target)

    def drop(
        self,
        diff_id: DiffID,
        form: Form,
        record: LayerRecord,
        discard: Callable[[Iterable[Path]], None],
    ) -> None:
        """Remove one of a layer's two forms; the caller has locked the layer against readers.

        The record changes last: until the tree is gone, its record must say what was moved.

        :param record: the record without the form.
        :param discard: removes paths.
        """
        discard(self.files(diff_id, form))
        write_atomically(self.own_paths(diff_id).record, record.to_json(), durable=True)

    def files(self, diff_id: DiffID, form: Form) -> list[Path]:
        """Return the files and directories that one form of a layer has in this store."""
        paths = self.own_paths(diff_id)
        return [path for name in _FILES[form] if (path := getattr(paths, name)).exists()]

    def _replace(self, fresh: Path, final: Path) -> None:
        """Exchange a layer, and keep the old one until no mount uses it; `gc` removes it."""
        exchange(fresh, final)
        fresh.rename(final.with_name(f"{final.name}{_REPLACED}{os.urandom(4).hex()}"))

    def replaced(self) -> list[Path]:
        """Return the directories of layers that were exchanged for new ones."""
        return list(self.root.glob(f"*/*{_REPLACED}*"))

    def mark(self, diff_id: DiffID) -> DiskMark:
        """Return the mark that tells whether a layer is on disk."""
        paths = self.paths(diff_id)
        if not self._is_read_only and paths.root.is_relative_to(self.root):
            return DiskMark(paths.root)
        return DiskMark(paths.root, self.changing / diff_id.algorithm / f"{diff_id.hex}.session")

    def abandoned_locks(self) -> Iterator[Path]:
        """Yield lock files of single layers, which earlier versions made, unless a process has one.

        A file of this version has the first digit of diff_ids as its name.
        """
        for path in self.root.glob("*/??*.lock"):
            held = lock.try_exclusive(path, create=False)
            if held is not None:
                with held:
                    yield path

    @contextmanager
    def reading(self, diff_ids: Sequence[DiffID]) -> Iterator[None]:
        """Lock layers against removal.

        :raises NotFoundError: a layer is not in the store.
        """
        with self.reading_present(diff_ids) as present:
            for diff_id in diff_ids:
                if diff_id not in present:
                    raise NotFoundError(
                        f"no such layer in the store: {diff_id}",
                        hint="pull the image again with `stacker pull`",
                    )
            yield

    @contextmanager
    def reading_present(self, diff_ids: Iterable[DiffID]) -> Iterator[set[DiffID]]:
        """Lock those layers that are in the store against removal, and yield them.

        Nothing removes a layer of a read-only store, or locks one of an additional store.
        """
        present = set()
        with _Locks(self.root) as locks:
            for diff_id in dict.fromkeys(diff_ids):
                is_locked = self.is_own(diff_id)
                if is_locked:
                    locks.of(diff_id).share(_offset(diff_id))
                # Neither removed nor committed by another process meanwhile.
                if self.has(diff_id) and is_locked == self.is_own(diff_id):
                    present.add(diff_id)
            yield present

    @contextmanager
    def removing(self, diff_ids: Iterable[DiffID]) -> Iterator[list[Path]]:
        """Lock layers against readers, and yield the paths to remove.

        :raises LockedError: another process reads one of them.
        """
        present = [diff_id for diff_id in dict.fromkeys(diff_ids) if self.is_own(diff_id)]
        with self.removing_unread(present) as free:
            for diff_id in present:
                if diff_id not in free and self.is_own(diff_id):  # not removed meanwhile
                    raise LockedError(
                        f"layer in use: {diff_id}: another process reads it",
                        hint="run the command again when the other process is done",
                    )
            yield [self.own_paths(each).root for each in present if self.is_own(each)]

    @contextmanager
    def removing_unread(self, diff_ids: Iterable[DiffID]) -> Iterator[set[DiffID]]:
        """Lock the layers that no other process reads against readers, and yield them."""
        with _Locks(self.root) as locks:
            yield {
                diff_id
                for diff_id in dict.fromkeys(diff_ids)
                if locks.of(diff_id).try_exclude(_offset(diff_id))
            }

    def all(self) -> Iterator[DiffID]:
        """Yield the diff_id of every layer in this store, without the additional ones."""
        for path in sorted(self.root.glob("*/*")):
            if path.is_dir() and _REPLACED not in path.name:
                yield DiffID(path.parent.name, path.name)


class _Locks(ExitStack):
    """The lock files of layers, opened when needed.

    A layer's lock is a byte of a file, so an image can have more layers than a process can have
    open files.  There is a file for each first digit: the kernel's time for a lock grows with the
    number of locks on the file.
    """

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root
        self._files: dict[str, ByteLocks] = {}

    def of(self, diff_id: DiffID) -> ByteLocks:
        """Return the file with the lock of a layer."""
        name = f"{diff_id.algorithm}/{diff_id.hex[0]}.lock"
        if name not in self._files:
            self._files[name] = self.enter_context(ByteLocks(self._root / name))
        return self._files[name]


def _offset(diff_id: DiffID) -> int:
    """Return the byte that a layer's lock is on.

    Two layers with one byte share a lock, so a removal could be refused without need.
    """
    return int(diff_id.hex[1:16], 16)
