"""Create an image from the writes of a mount: one more layer, and a changed config.

A store and the target of a mount, or an upper directory, come in; an `ImageCommitted` goes out.
The layer takes the path of a pull: the tar of the writes is a source, which is unpacked, stacked
and listed.  This module changes neither the mount nor its upper directory.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from stacker.errors import NotFoundError, StackerError, UnsupportedError, UsageError, full_disk_hint
from stacker.events import ImageCommitted
from stacker.image import mediatype
from stacker.image.descriptor import Descriptor
from stacker.image.digest import DiffID, Digest, ImageID
from stacker.image.document import parse_object, to_bytes
from stacker.image.manifest import Manifest
from stacker.jobs.tasks import UnpackOptions
from stacker.layer.metadata import IdMap
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import safe_path
from stacker.linux.filesystem import create_private, sync_filesystem
from stacker.linux.mountapi import FileDescriptor
from stacker.mount.table import Table
from stacker.mount.upper_directory import exclusive_upper, read_origin
from stacker.operations.durability import ensure_sound
from stacker.operations.pull import pull_image
from stacker.operations.push import StoredImageSource, choose_manifest, oci_layer
from stacker.operations.stack import chain_id_of, ensure_stack
from stacker.tar.limits import UNLIMITED
from stacker.tree.changes import LayerOptions, UpperArchive

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from stacker.events import Emit
    from stacker.image.instructions import Instruction
    from stacker.mount.record import MountRecord
    from stacker.operations.durability import Restore
    from stacker.store.store import Store

_DRIVERS: Final = ("overlay", "fuse")


@dataclass(frozen=True, slots=True)
class CommitOptions:
    """The metadata of the new image.

    :param changes: changes of the config, in order.
    :param author: who made the image, may be empty.
    :param message: a comment for its history, may be empty.
    :param epoch: seconds since the epoch: when the image was made, and the latest time of its
        files (SOURCE_DATE_EPOCH); ``None`` for now.
    """

    changes: tuple[Instruction, ...] = ()
    author: str = ""
    message: str = ""
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class _Writes:
    """An upper directory.

    :param target: where it is mounted; ``None`` if it is not.
    """

    upper: Path
    image_id: ImageID
    chain_id: str
    target: Path | None


def commit_image(
    store: Store,
    path: Path,
    name: str,
    options: CommitOptions,
    *,
    emit: Emit,
    restore: Restore | None = None,
) -> ImageCommitted:
    """Create an image from the writes of a mount, and flush it to disk.

    :param path: the target of a writable mount, or an upper directory.
    :param name: the name of the image in the store.
    :param emit: receives the events of a pull.
    :param restore: unpacks layers of the base that are missing or damaged.
    :raises UsageError: the mount is read-only, or there is no mount and no upper directory.
    :raises NotFoundError: the store lacks the image that was mounted.
    :raises UnsupportedError: a layer cannot hold a file, or another driver made the mount.
    :raises LockedError: another process is mounting the upper directory.
    """
    writes = _find_writes(store, path)
    ensure_sound(store, writes.image_id, restore)
    with ExitStack() as held:
        config = held.enter_context(store.images.reading(writes.image_id))
        held.enter_context(store.layers.reading(config.diff_ids))
        if str(chain_id_of(config)) != writes.chain_id:
            raise NotFoundError(f"no image with the layers of the upper directory: {writes.upper}")
        stack = ensure_stack(store, config)
        directory = held.enter_context(store.staging.directory("commit"))
        blob, archive = _write_tar(writes, directory / "layer", stack.whiteout_format, options)
        path = directory / "layer"
        content = _changed_config(store, writes.image_id, DiffID.recast(blob.digest), options)
        source = _source(store, writes.image_id, content, (blob, path), name)
        pulled = pull_image(
            store,
            source,
            platform=config.platform,
            options=UnpackOptions(
                WhiteoutFormat.permitted(),
                IdMap.permitted(),
                UNLIMITED,
                sync=True,  # no source can restore the layer
                form=stack.form,
            ),
            jobs=1,
            origin="",
            emit=emit,
        )
    warnings = (*archive.warnings, *pulled.warnings)
    diff_id = DiffID.recast(blob.digest)
    return ImageCommitted(pulled.image_id, writes.image_id, diff_id, archive.entries, warnings)


def _find_writes(store: Store, path: Path) -> _Writes:
    try:
        path = safe_path.resolve(path)
    except OSError as error:
        raise StackerError(f"cannot commit: {path}: {error.strerror}") from error
    entry = Table(store.mounts).find(path)
    if entry is not None and entry.state == "mounted":
        return _writes_of(store, entry.record)
    if not path.is_dir():
        raise NotFoundError(
            f"no such mount or directory: {path}", hint="`stacker mounts` lists the mounts"
        )
    origin = read_origin(path)
    if origin is None:
        raise UsageError(
            f"nothing to commit: {path}: got neither a mount nor an upper directory of stacker",
            hint="`stacker mount --upper DIR` keeps writes in DIR",
        )
    at = next((e for e in Table(store.mounts).entries() if e.record.upper == path), None)
    is_mounted = at is not None and at.state == "mounted"
    target = at.record.target if at is not None and is_mounted else None
    return _Writes(path, ImageID.parse(origin.image_id), origin.chain_id, target)


def _writes_of(store: Store, record: MountRecord) -> _Writes:
    if record.read_only:
        raise UsageError(
            f"nothing to commit: {record.target}: got a read-only mount, want a writable one",
            hint="mount with --rw or --upper",
        )
    if record.driver not in _DRIVERS:
        raise UnsupportedError(
            f"cannot commit: {record.target}: got the driver {record.driver}, want "
            f"{' or '.join(_DRIVERS)}",
            hint="mount with --driver overlay or --driver fuse",
        )
    upper = record.upper or store.mounts / record.id / "upper"
    return _Writes(upper, ImageID.parse(record.image), record.chain_id or "", record.target)


def _write_tar(
    writes: _Writes,
    path: Path,
    whiteout_format: WhiteoutFormat,
    options: CommitOptions,
) -> tuple[Descriptor, UpperArchive]:
    """Write the tar of an upper directory to a file, and return its descriptor."""
    running, size = hashlib.sha256(), 0
    squash = IdMap.permitted().squash
    try:
        with _opened(writes) as upper, create_private(path) as out:
            archive = UpperArchive(
                upper, whiteout_format, str(writes.upper), LayerOptions(squash, options.epoch)
            )
            for chunk in archive.chunks():
                running.update(chunk)
                size += len(chunk)
                out.write(chunk)
    except OSError as error:
        name = error.filename if isinstance(error.filename, str) else writes.upper
        text = f"cannot commit: {name}: {error.strerror or error}"
        raise StackerError(text, hint=full_disk_hint(error)) from error
    return Descriptor(mediatype.OCI_LAYER, Digest("sha256", running.hexdigest()), size), archive


@contextmanager
def _opened(writes: _Writes) -> Iterator[int]:
    """Yield a descriptor of an upper directory that is up to date and that no process mounts."""
    with ExitStack() as held:
        if writes.target is None:
            held.enter_context(exclusive_upper(writes.upper))
        else:
            sync_filesystem(writes.target)  # a FUSE mount keeps writes in the page cache
        opened = held.enter_context(FileDescriptor.open_directory(writes.upper))
        yield opened.number


def _source(
    store: Store, base: ImageID, config: bytes, layer: tuple[Descriptor, Path], name: str
) -> StoredImageSource:
    """Return the new image as a source: its documents, and the tar of its topmost layer."""
    blob, path = layer
    described = Descriptor.embedding(mediatype.OCI_CONFIG, config)
    with store.images.read_lock():
        layers = store.images.manifest(choose_manifest(store, base, str(base))).layers
    manifest = Manifest(mediatype.OCI_MANIFEST, described, (*map(oci_layer, layers), blob))
    bare = replace(manifest, config=replace(described, data=None))
    documents = path.with_name("config")
    documents.write_bytes(config)
    return StoredImageSource(
        store.root,
        bare.embedded(),
        names=(name,),
        packed={blob.digest: path, described.digest: documents},
    )


def _changed_config(store: Store, base: ImageID, diff_id: DiffID, options: CommitOptions) -> bytes:
    """Return the config of the base with one more layer; all other members stay."""
    members = parse_object(store.blobs.read(base), f"config {base}")
    seconds = time.time() if options.epoch is None else options.epoch
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    step = {"created": created, "created_by": "stacker commit"}
    step |= {"author": options.author} if options.author else {}
    step |= {"comment": options.message} if options.message else {}
    rootfs, execution = members["rootfs"], members.get("config")
    before = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    members["rootfs"] = {"type": "layers", "diff_ids": [*(before or ()), str(diff_id)]}
    history = members.get("history")
    members["history"] = [*(history if isinstance(history, list) else []), step]
    members["created"] = created
    members |= {"author": options.author} if options.author else {}
    changed = dict(execution) if isinstance(execution, dict) else {}
    for change in options.changes:
        change.apply(changed)
    members["config"] = changed
    return to_bytes(members)


def parse_changes(texts: Sequence[str]) -> tuple[Instruction, ...]:
    """Return changes of a config.

    :param texts: instructions of a Containerfile, such as ``ENV LANG=C``.
    :raises UsageError: one of them is malformed.
    """
    from stacker.image.instructions import Instruction

    return tuple(map(Instruction.parse, texts))
