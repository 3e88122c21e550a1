"""Remove objects that no image, mount or running command needs.

A store and an age come in; the removed objects go out, with the space that each frees.  Each object
is locked before it is removed, so that a command that uses it keeps it.  While a pull, a mount or
an unpack is running, the images and their parts stay: no image lists the layers of the pull yet.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stacker.errors import LockedError, NotFoundError
from stacker.image.digest import ChainID, DiffID
from stacker.linux import lock
from stacker.linux.filesystem import abandoned_temporaries, is_temporary
from stacker.linux.removal import remove_path
from stacker.mount.detach import clear_stale
from stacker.mount.table import Table
from stacker.operations.convert import drop_form, layers_of_two_forms, unused_forms
from stacker.operations.remove import MountedParts, parts_of, paths_of, removable_images
from stacker.operations.usage import FreedSpace

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterator, Mapping
    from pathlib import Path

    from stacker.image.digest import ImageID
    from stacker.layer.paths import Form
    from stacker.operations.remove import Discard, ImageParts
    from stacker.store.images import StoredImage
    from stacker.store.store import Store


@dataclass(frozen=True, slots=True)
class Garbage:
    """An object of the store that no image, mount or running command needs.

    :param kind: ``layer``, ``form``, ``chain``, ``blob``, ``partial``, ``staging``, ``mount``,
        ``image``, ``index`` or ``temporary``.
    :param name: its digest, its file name, the target of the mount, or the diff_id and the form.
    :param size: bytes on disk that its removal frees; for an image, the bytes of its documents,
        its chain and the layers that no other image has.
    """

    kind: str
    name: str
    size: int


def collect_garbage(
    store: Store, *, older_than: float = 0, dry_run: bool = False, untagged: bool = False
) -> list[Garbage]:
    """Remove the objects that no image, mount or running command needs.

    :param older_than: seconds; younger layers, chains, blobs and partial blobs are kept.
    :param dry_run: remove nothing, and return what would be removed.
    :param untagged: remove images without a name, too.
    """
    if not store.exists or not store.changing.exists():
        return []
    collector = _Collector(store, older_than, dry_run)
    found = [*collector.stale_mounts(), *collector.leftovers()]
    if store.is_read_only:
        return found
    with (
        store.staging.trash() as discard,
        store.indexes.write_lock(),
        store.images.write_lock(),
    ):
        idle = lock.try_exclusive(store.pull_lock)
        if idle is None:  # a pull, a mount or an unpack is running
            return [*found, *collector.unreadable(discard)]
        with idle:
            removed = collector.untagged(discard) if untagged else []
            found += [*removed, *collector.unreadable(discard)]
            return [*found, *collector.unlisted(discard)]


@dataclass(frozen=True, slots=True)
class _Collector:
    store: Store
    older_than: float
    dry_run: bool
    _freed: FreedSpace = field(default_factory=FreedSpace)

    def stale_mounts(self) -> Iterator[Garbage]:
        """Remove the records of mounts that have ended, and directories without a record."""
        table = Table(self.store.mounts)
        stale = [entry.record for entry in table.entries() if entry.state == "stale"]
        names = {record.id: str(record.target) for record in stale}
        names |= {identifier: identifier for identifier in table.abandoned()}
        sizes = {each: self._freed.add(table.directory / each) for each in names}
        if not self.dry_run:
            clear_stale(table)
        for identifier, name in names.items():
            if self.dry_run or not (table.directory / identifier).exists():
                yield Garbage("mount", name, sizes[identifier])

    def leftovers(self) -> Iterator[Garbage]:
        """Remove the files of processes that were killed."""
        found = [("staging", self.store.staging.abandoned())]
        if not self.store.is_read_only:
            partials = self.store.partials.abandoned(older_than=self.older_than)
            found += [("partial", partials), ("temporary", self._temporaries())]
        for kind, paths in found:
            for path in paths:
                yield Garbage(kind, path.name, self._freed.add(path))
                if not self.dry_run:
                    remove_path(path)

    def _temporaries(self) -> Iterator[Path]:
        root = self.store.root
        folders = [*self.store.blobs.root.glob("*"), *self.store.chains.directory.glob("*/*")]
        for folder in (root, root / "indexes", *folders):
            if folder.is_dir():
                yield from abandoned_temporaries(folder)
        yield from self.store.layers.abandoned_locks()

    def untagged(self, discard: Discard) -> list[Garbage]:
        """Remove images without a name.  The caller holds both locks."""
        removed: dict[ImageID, Garbage] = {}
        for image in self.store.images.all():
            if not image.names:
                with suppress(LockedError, NotFoundError):
                    size = self._remove(image, discard, besides=removed if self.dry_run else ())
                    removed[image.id] = Garbage("image", str(image.id), size)
        return [*removed.values()]

    def _remove(self, image: StoredImage, discard: Discard, *, besides: Collection[ImageID]) -> int:
        with removable_images(self.store, [image.id], besides=besides) as unused:
            paths = paths_of(self.store, unused[image.id])
            size = sum(map(self._freed.add, paths))
            if not self.dry_run:
                self.store.images.remove(image.id)
                discard(paths)
        return size

    def unreadable(self, discard: Discard) -> list[Garbage]:
        """Remove indexes that are damaged, and images whose manifest is damaged or missing.

        `unlisted` frees their parts.  The caller holds the locks of both lists.
        """
        images, records = self.store.images, self.store.indexes.damaged()
        digests = images.unreadable() if self.dry_run else images.drop_unreadable()
        found = [Garbage("image", digest, 0) for digest in digests]
        found += [Garbage("index", path.name, self._freed.add(path)) for path in records]
        if not self.dry_run:
            discard(records)
        return found

    def unlisted(self, discard: Discard) -> list[Garbage]:
        """Remove layers, chains and blobs that no image has, and forms that no stack uses.

        The caller holds both locks.
        """
        store, limit = self.store, time.time() - self.older_than
        needed = parts_of(store, store.images.all())
        unlisted = set(store.layers.all()) - needed.layers
        old = [each for each in sorted(unlisted, key=str) if _is_old(_root(store, each), limit)]
        replaced = _replaced_layers(store)
        double = [
            each
            for each in layers_of_two_forms(store, needed.layers)
            if _is_old(_root(store, each), limit)
        ]
        with store.layers.removing_unread([*old, *replaced.values(), *double]) as unread:
            mounted = MountedParts.read(store)  # after the locks: a mount in progress holds one
            free = {each for each in unread if not mounted.may_use(each)}
            layers = [(str(each), _root(store, each)) for each in old if each in free]
            layers += [(path.name, path) for path, each in replaced.items() if each in free]
            chains = _outside(store.chains.directory, _used_chains(store, needed, mounted), limit)
            blobs = _outside(store.blobs.root, _used_blobs(store, needed), limit)
            unused = [("layer", name, path) for name, path in layers]
            unused += [("chain", path.name, path) for path in chains]
            unused += [("blob", path.name, path) for path in blobs]
            found = [Garbage(kind, name, self._freed.add(path)) for kind, name, path in unused]
            found += self._forms(unused_forms(store, free.intersection(double), mounted), discard)
            if not self.dry_run:
                store.images.publish()  # a killed `rm` has not updated index.json
                discard(path for _, _, path in unused if path.exists())
        return found

    def _forms(self, unused: Mapping[DiffID, Form], discard: Discard) -> Iterator[Garbage]:
        for diff_id, form in unused.items():
            size = sum(map(self._freed.add, self.store.layers.files(diff_id, form)))
            if not self.dry_run:
                drop_form(self.store, diff_id, form, discard)
            yield Garbage("form", f"{diff_id} {form}", size)


def _replaced_layers(store: Store) -> dict[Path, DiffID]:
    return {
        path: DiffID(path.parent.name, path.name.partition(".")[0])
        for path in store.layers.replaced()
    }


def _used_chains(store: Store, needed: ImageParts, mounted: MountedParts) -> set[Path]:
    if mounted.unknown is not None:
        return set(store.chains.directory.glob("*/*"))
    used = {store.chains.path(chain_id) for chain_id in needed.chains}
    used |= {store.chains.path(ChainID.parse(name)) for name in mounted.chains}
    replaced = store.chains.replaced().items()
    return used | {path for path, chain_id in replaced if str(chain_id) in mounted.chains}


def _used_blobs(store: Store, needed: ImageParts) -> set[Path]:
    used = {store.blobs.path(digest) for digest in needed.blobs}
    return used | {store.blobs.path(index.digest) for index in store.indexes.all()}


def _outside(folder: Path, used: Container[Path], limit: float) -> list[Path]:
    """Return the old objects of a folder that are not used."""
    return [
        path
        for path in folder.glob("*/*")
        if path not in used and not is_temporary(path.name) and _is_old(path, limit)
    ]


def _root(store: Store, diff_id: DiffID) -> Path:
    return store.layers.own_paths(diff_id).root


def _is_old(path: Path, limit: float) -> bool:
    try:
        return path.stat().st_mtime <= limit
    except FileNotFoundError:
        return False
