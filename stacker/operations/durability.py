"""Flush layers to disk, and find those that a power cut damaged.

A layer is published without waiting for the disk.  `flush` writes everything to disk later and
marks it durable.  After a reboot, or after a new mount of the filesystem, a layer without the mark
is verified before its first use (`sound_layers`), and removed if it is wrong.  Source: ext4(5),
*data=ordered*: a rename can reach the disk before the contents of the renamed file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from stacker.errors import NotFoundError
from stacker.linux.filesystem import is_tmpfs, sync_filesystem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from stacker.image.digest import DiffID, ImageID
    from stacker.linux.filesystem import FileIdentity
    from stacker.store.disk_mark import DiskMark
    from stacker.store.store import Store

    Restore = Callable[[Store, ImageID, Sequence[DiffID]], object]
    """Unpacks layers of an image again."""

_ID = TypeVar("_ID")


def flush(store: Store) -> int:
    """Write every layer and chain to disk, and mark them durable.

    :returns: the number of layers and chains that were marked.
    :raises OSError: a write to the disk failed; nothing is marked then.
    """
    if store.is_read_only:
        return 0
    layers = _unflushed({each: store.layers.mark(each) for each in store.layers.all()})
    chains = _unflushed({each: store.chains.mark(each) for each in store.chains.all()})
    if not layers and not chains:
        return 0
    if not is_tmpfs(store.root):
        sync_filesystem(store.root)
    for diff_id, layer in layers.items():
        store.layers.mark(diff_id).mark_durable(layer)
    for chain_id, chain in chains.items():
        store.chains.mark_durable(chain_id, chain)
    return len(layers) + len(chains)


def _unflushed(marks: Mapping[_ID, DiskMark]) -> dict[_ID, FileIdentity]:
    return {each: mark.identity for each, mark in marks.items() if mark.needs_flush}


def sound_layers(store: Store, diff_ids: Iterable[DiffID]) -> set[DiffID]:
    """Return those layers that are in the store and complete.

    A layer that a power cut may have damaged is verified first.  It is marked durable if it is
    right, and removed if it is wrong.

    :raises LockedError: another process reads a damaged layer.
    """
    sound = set()
    for diff_id in dict.fromkeys(diff_ids):
        if store.layers.has(diff_id) and (
            store.layers.mark(diff_id).is_certain or _verify(store, diff_id)
        ):
            sound.add(diff_id)
    return sound


def ensure_sound(
    store: Store,
    image_id: ImageID,
    restore: Restore | None,
    diff_ids: Sequence[DiffID] | None = None,
) -> None:
    """Make sure that layers of an image are in the store and complete.

    :param restore: unpacks damaged and missing layers again.
    :param diff_ids: the layers; ``None`` for all layers of the image.
    :raises NotFoundError: a layer is missing or was damaged, and there is no `restore`.
    :raises IntegrityError: `restore` finds no source for it.
    """
    if diff_ids is None:
        diff_ids = store.images.config(image_id).diff_ids
    sound = sound_layers(store, diff_ids)
    damaged = [diff_id for diff_id in dict.fromkeys(diff_ids) if diff_id not in sound]
    if not damaged:
        return
    if restore is None:
        raise NotFoundError(
            f"no such layer in the store: {damaged[0]}",
            hint="pull the image again with `stacker pull`",
        )
    restore(store, image_id, damaged)


def _verify(store: Store, diff_id: DiffID) -> bool:
    from stacker.jobs.verify_layer import VerifyTask, verify_layer  # only after a power cut

    mark = store.layers.mark(diff_id)
    verified = mark.identity
    with store.layers.reading([diff_id]):
        if verify_layer(VerifyTask(store, diff_id), lambda _: None).is_sound:
            mark.mark_durable(verified)
            return True
    discard_layers(store, [diff_id])
    return False


def discard_layers(store: Store, diff_ids: Iterable[DiffID]) -> None:
    """Remove layers from the store, even if images need them.

    :raises LockedError: another process reads one of them.
    """
    with store.staging.trash() as discard, store.layers.removing(diff_ids) as paths:
        discard(paths)
