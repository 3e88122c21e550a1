"""Remove objects that no image, mount or running command needs.

A store and an age come in; the removed objects go out, with their sizes.  Each object is locked
before it is removed, so that a command that uses it keeps it.  A running pull keeps the layers that
no image lists yet.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stacker.errors import LockedError
from stacker.image.digest import ChainID, DiffID
from stacker.linux import lock
from stacker.linux.filesystem import is_temporary, sweep_temporaries
from stacker.mount.detach import clear_stale
from stacker.mount.table import Table
from stacker.operations.remove import MountedParts, parts_of, remove_image
from stacker.operations.usage import tree_size

if TYPE_CHECKING:
    from pathlib import Path

    from stacker.store.store import Store


@dataclass(frozen=True, slots=True)
class Garbage:
    """An object of the store that no image, mount or running command needs.

    :param kind: ``layer``, ``chain``, ``blob``, ``partial``, ``staging``, ``mount``, ``image``
        or ``temporary``.
    :param name: its digest, its file name, or the target of the mount.
    :param size: bytes on disk.
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
    found: list[Garbage] = []
    with suppress(LockedError):
        if untagged:
            found += _untagged(store, dry_run=dry_run)
    found += _stale_mounts(store, dry_run=dry_run)
    found += _leftovers(store, older_than, dry_run=dry_run)
    with store.images.write_lock(), ExitStack() as held:
        found += _unreadable(store, dry_run=dry_run)
        pulling = lock.try_exclusive(store.pull_lock)
        if pulling is not None:  # else a pull has layers that no image lists yet
            held.enter_context(pulling)
            found += _unlisted(store, time.time() - older_than, dry_run=dry_run)
    return found


def _untagged(store: Store, *, dry_run: bool) -> Iterator[Garbage]:
    for image in store.images.all():
        if image.names:
            continue
        with suppress(LockedError):
            if not dry_run:
                remove_image(store, image.id)
            yield Garbage("image", str(image.id), 0)


def _unreadable(store: Store, *, dry_run: bool) -> Iterator[Garbage]:
    """Remove images whose manifest is damaged or missing from the list.  The caller locks it."""
    for digest in store.images.unreadable() if dry_run else store.images.drop_unreadable():
        yield Garbage("image", digest, 0)


def _stale_mounts(store: Store, *, dry_run: bool) -> Iterator[Garbage]:
    table = Table(store.mounts)
    if dry_run:
        stale = [entry.record for entry in table.entries() if entry.state == "stale"]
    else:
        stale = clear_stale(table)
    for record in stale:
        yield Garbage("mount", str(record.target), 0)


def _leftovers(store: Store, older_than: float, *, dry_run: bool) -> Iterator[Garbage]:
    """Sweep the files of processes that were killed."""
    for path in store.staging.unlocked():
        yield Garbage("staging", path.name, tree_size(path))
    for path in store.partials.older_than(older_than):
        yield Garbage("partial", path.name, path.stat().st_size)
    folders = [store.root, store.root / "indexes", *store.blobs.root.glob("*")]
    for folder in filter(lambda path: path.is_dir(), folders):
        for path in folder.iterdir():
            if is_temporary(path.name):
                yield Garbage("temporary", path.name, path.stat().st_size)
        if not dry_run:
            sweep_temporaries(folder)
    if not dry_run:
        store.staging.sweep()
        store.partials.sweep(older_than=older_than)


def _unlisted(store: Store, limit: float, *, dry_run: bool) -> list[Garbage]:
    """Remove layers, chains and blobs that no image has.  The caller holds both locks."""
    needed = parts_of(store, store.images.all())
    blobs = {store.blobs.path(digest) for digest in needed.blobs}
    blobs |= {store.blobs.path(index.digest) for index in store.indexes.all()}
    chains = {store.chains.path(chain_id) for chain_id in needed.chains}
    unlisted = set(store.layers.all()) - needed.layers
    old = [each for each in sorted(unlisted, key=str) if _is_old(_root(store, each), limit)]
    with store.staging.trash() as discard, store.layers.removing_unread(old) as free:
        mounted = MountedParts.read(store)  # after the locks: a mount in progress holds one
        chains |= {store.chains.path(ChainID.parse(name)) for name in mounted.chains}
        replaced = store.chains.replaced().items()
        chains |= {path for path, chain_id in replaced if str(chain_id) in mounted.chains}
        unused = [*_layers(store, free, mounted), *_replaced(store, mounted)]
        for kind, folder, used in (
            ("chain", store.chains.directory, chains),
            ("blob", store.blobs.root, blobs),
        ):
            unused += [
                (kind, path.name, path)
                for path in folder.glob("*/*")
                if path not in used and not is_temporary(path.name) and _is_old(path, limit)
            ]
        found = [Garbage(kind, name, tree_size(path)) for kind, name, path in unused]
        if not dry_run:
            discard(path for _, _, path in unused)
    return found


def _layers(
    store: Store, free: set[DiffID], mounted: MountedParts
) -> Iterator[tuple[str, str, Path]]:
    for diff_id in sorted(free, key=str):
        if str(diff_id) not in mounted.layers:
            yield "layer", str(diff_id), _root(store, diff_id)


def _replaced(store: Store, mounted: MountedParts) -> Iterator[tuple[str, str, Path]]:
    for path in store.layers.replaced():
        diff_id = DiffID(path.parent.name, path.name.partition(".")[0])
        if str(diff_id) not in mounted.layers:
            yield "layer", path.name, path


def _root(store: Store, diff_id: DiffID) -> Path:
    return store.layers.paths(diff_id).root


def _is_old(path: Path, limit: float) -> bool:
    try:
        return path.stat().st_mtime <= limit
    except FileNotFoundError:
        return False
