"""What worker processes do for the services: unpack a layer, and stack the layers of a container.

Plain tasks come in; the layer is in the store, and the row of its snapshot in the database names
it, before the answer goes out.  Until then the worker holds the locks that keep `gc` away.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from stacker.containerd.metadata import Metadata, opened
from stacker.image.config import ImageConfig, chain_ids
from stacker.image.descriptor import Descriptor
from stacker.image.digest import ChainID, DiffID, Digest
from stacker.image.platform import Platform
from stacker.jobs.tasks import UnpackOptions, UnpackTask
from stacker.jobs.unpack_layer import unpack_layer
from stacker.layer.metadata import IdMap
from stacker.layer.paths import Stack
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import lock
from stacker.operations.durability import sound_layers
from stacker.operations.schema1 import UndeclaredDiffID
from stacker.operations.stack import chain_id_of, reading_stack
from stacker.source.files import Directory
from stacker.source.layout import Layout
from stacker.store.store import Store


@dataclass(frozen=True, slots=True)
class ApplyTask:
    """One layer to unpack for a snapshot.

    :param database: the path of the database with the snapshot.
    :param number: the ID of the snapshot.
    :param content: the directory of containerd's content store; nothing is written there.
    :param blob: the layer in the content store.
    """

    store: Store
    database: Path
    number: int
    content: Path
    blob: Descriptor


@dataclass(frozen=True, slots=True)
class Applied:
    """A layer of the store that a snapshot has.

    :param size: the length of its tar in bytes.
    :param hit: it was in the store, and was not unpacked.
    """

    diff_id: DiffID
    size: int
    hit: bool

    @property
    def diff_id_as_digest(self) -> Digest:
        """The digest of the tar."""
        return Digest.recast(self.diff_id)


def apply_layer(task: ApplyTask) -> Applied:
    """Unpack a layer unless it is in the store, and record it as that of the snapshot.

    :raises NotFoundError: the content store lacks the blob.
    :raises IntegrityError: the blob does not match its digest.
    :raises LayerError: the layer is malformed or hostile, or exceeds a limit.
    :raises StatusError: NOT_FOUND, because the snapshot was removed meanwhile.
    """
    store, blob = task.store, str(task.blob.digest)
    with lock.shared(store.pull_lock), opened(task.database) as metadata:
        diff_id = _known(store, metadata, blob)
        hit = diff_id is not None
        if diff_id is None:
            diff_id = unpack_layer(_unpack_task(task), lambda _: None).diff_id
            metadata.remember(str(diff_id), [blob])
        with store.layers.reading([diff_id]):
            record = store.layers.record(diff_id)
            metadata.set_layer(task.number, str(diff_id), (record.file_bytes, record.entries))
    return Applied(diff_id, record.tar_bytes, hit)


def _unpack_task(task: ApplyTask) -> UnpackTask:
    options = UnpackOptions(WhiteoutFormat.permitted(), IdMap.permitted(), resume=False)
    identity = UndeclaredDiffID(task.blob.digest)
    files = Directory(str(task.content), "containerd's content store")
    return UnpackTask(Layout(files, task.blob, ()), task.store, task.blob, identity, options)


def _known(store: Store, metadata: Metadata, blob: str) -> DiffID | None:
    """Return the layer of a blob, if the store has it and no power cut can have damaged it.

    Records of layers name the verified blobs that they were unpacked from.
    """
    remembered = metadata.remembered()
    for diff_id in store.layers.all():
        if str(diff_id) not in remembered:
            metadata.remember(str(diff_id), store.layers.record(diff_id).blobs)
    found = metadata.layer_of(blob)
    if found is None:
        return None
    diff_id = DiffID.parse(found)
    return diff_id if diff_id in sound_layers(store, [diff_id]) else None


@dataclass(frozen=True, slots=True)
class FindTask:
    """A layer that a client wants to have without a fetch.

    :param number: the ID of the snapshot that it is for.
    :param below: the layers of the parents, base first.
    :param chain_id: the chain ID of the layer and its parents.
    :param blob: the digest of the layer's blob, if the client told it.
    :param diff_id: the layer's diff_id, if the client told it.
    """

    store: Store
    database: Path
    number: int
    below: tuple[DiffID, ...]
    chain_id: ChainID
    blob: str | None
    diff_id: str | None


def find_layer(task: FindTask) -> bool:
    """Record a layer of the store as that of the snapshot, and return whether the store has it.

    The chain ID decides: a label cannot give a snapshot another layer.
    """
    store = task.store
    with lock.shared(store.pull_lock), opened(task.database) as metadata:
        if task.diff_id is not None:
            diff_id = next(iter(sound_layers(store, [DiffID.parse(task.diff_id)])), None)
        else:
            diff_id = None if task.blob is None else _known(store, metadata, task.blob)
        if diff_id is None or chain_ids((*task.below, diff_id))[-1] != task.chain_id:
            return False
        with store.layers.reading([diff_id]):
            record = store.layers.record(diff_id)
            metadata.set_layer(task.number, str(diff_id), (record.file_bytes, record.entries))
    return True


@dataclass(frozen=True, slots=True)
class StackTask:
    """The layers to stack for a snapshot, base first."""

    store: Store
    database: Path
    number: int
    diff_ids: tuple[DiffID, ...]


def stack_layers(task: StackTask) -> Stack:
    """Return the stack of layers, as `stacker mount` stacks them, and record it for the snapshot.

    :raises NotFoundError: the store lacks a layer.
    :raises LayerError: a hard link has no target, or a path exceeds a limit.
    """
    store, config = task.store, ImageConfig(Platform("linux", "unknown"), task.diff_ids)
    with ExitStack() as held:
        held.enter_context(lock.shared(store.pull_lock))
        metadata = held.enter_context(opened(task.database))
        held.enter_context(store.layers.reading(task.diff_ids))
        stack = held.enter_context(reading_stack(store, config, form="tree"))
        metadata.set_chain(task.number, str(chain_id_of(config)))
        return stack
