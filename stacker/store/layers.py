"""Unpacked layers by diff_id.

A layer that is there is whole and verified: it gets its name by a rename, after both digests
matched.  One process unpacks a layer; who comes meanwhile waits for it.  Readers share a lock,
so that nobody removes what is being read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.errors import LockedError, NotFoundError
from stacker.image.digest import DiffID, Digest
from stacker.layer.paths import LayerPaths
from stacker.linux import lock
from stacker.linux.filesystem import sync_filesystem
from stacker.store.staging import Staging

if TYPE_CHECKING:
    from stacker.layer.record import LayerRecord


@dataclass(frozen=True, slots=True)
class LayerStore:
    """The directory ``layers/`` of a store."""

    root: Path
    staging: Staging

    def paths(self, diff_id: DiffID) -> LayerPaths:
        """Return the paths of a layer, whether or not it is in the store."""
        return LayerPaths(self.root / diff_id.algorithm / diff_id.hex)

    def has(self, diff_id: DiffID) -> bool:
        """Say whether a layer is here."""
        return self.paths(diff_id).root.exists()

    def record(self, diff_id: DiffID) -> LayerRecord:
        """Read what is known about a layer.

        :raises NotFoundError: it is not here.
        """
        from stacker.layer.record import LayerRecord  # most mounts read none

        path = self.paths(diff_id).record
        try:
            return LayerRecord.from_json(path.read_bytes(), f"{path}")
        except FileNotFoundError:
            raise NotFoundError(f"no such layer in the store: {diff_id}") from None

    @contextmanager
    def unpacking(self, diff_id: DiffID) -> Iterator[LayerPaths | None]:
        """Give a place to unpack into, or ``None`` when the layer is there by now.

        Without a :meth:`commit` everything is removed when the context ends.
        """
        with self.staging.locked(f"{diff_id.algorithm}-{diff_id.hex}") as path:
            if self.has(diff_id):
                yield None
                return
            paths = LayerPaths(path)
            paths.diff.mkdir(mode=0o700, parents=True)
            yield paths

    @contextmanager
    def unpacking_blob(self, blob: Digest) -> Iterator[LayerPaths]:
        """Give a place to unpack a blob into whose diff_id will show in the end.

        A :meth:`commit` belongs into :meth:`unpacking` of that diff_id; without one everything
        is removed when the context ends.
        """
        with self.staging.locked(f"blob-{blob.algorithm}-{blob.hex}") as path:
            paths = LayerPaths(path)
            paths.diff.mkdir(mode=0o700, parents=True)
            yield paths

    def commit(
        self, diff_id: DiffID, paths: LayerPaths, record: LayerRecord, *, sync: bool
    ) -> None:
        """Give a finished layer its name.

        :param sync: have the filesystem on disk first, so that a power cut cannot leave a
            layer that has a name and lacks contents.
        """
        paths.record.write_bytes(record.to_json())
        paths.root.chmod(0o700)
        if sync:
            sync_filesystem(paths.root)
        final = self.paths(diff_id).root
        final.parent.mkdir(mode=0o700, exist_ok=True)
        paths.root.rename(final)
        if sync:
            sync_filesystem(final.parent)

    @contextmanager
    def reading(self, diff_ids: Iterable[DiffID]) -> Iterator[None]:
        """Keep layers from being removed.

        :raises NotFoundError: one is not here.
        """
        with ExitStack() as held:
            for diff_id in dict.fromkeys(diff_ids):
                if self.has(diff_id):
                    held.enter_context(lock.shared(self._lock(diff_id)))
                if not self.has(diff_id):
                    raise NotFoundError(
                        f"no such layer in the store: {diff_id}", hint="pull the image again"
                    )
            yield

    @contextmanager
    def removing(self, diff_ids: Iterable[DiffID]) -> Iterator[list[Path]]:
        """Lock layers against readers and give what is to be removed.

        :raises LockedError: somebody reads one of them.
        """
        with ExitStack() as held:
            paths = []
            for diff_id in dict.fromkeys(diff_ids):
                if not self.has(diff_id):
                    continue
                taken = lock.try_exclusive(self._lock(diff_id))
                if taken is None:
                    raise LockedError(f"layer in use: {diff_id}: somebody is reading it")
                held.enter_context(taken)
                paths += [self.paths(diff_id).root, self._lock(diff_id)]
            yield paths

    def all(self) -> Iterator[DiffID]:
        """Give the diff_id of every layer here."""
        for algorithm in sorted(self.root.iterdir()):
            for entry in sorted(algorithm.iterdir()):
                if entry.is_dir():
                    yield DiffID(algorithm.name, entry.name)

    def _lock(self, diff_id: DiffID) -> Path:
        root = self.paths(diff_id).root
        return root.with_name(root.name + ".lock")
