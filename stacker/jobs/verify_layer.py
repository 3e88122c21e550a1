"""Verify one unpacked layer: its tree against its skeleton, and its bytes against its diff_id.

    skeleton          -> entries -> compared with the tree on disk
    skeleton + tree   -> tar     -> SHA-256, compared with the diff_id

A task comes in, a plain value that travels to a worker process; the differences go out.  This
module changes nothing in the store, and must not use images.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stacker.errors import IntegrityError, NotFoundError
from stacker.events import PackProgress
from stacker.layer.apply import apply
from stacker.layer.metadata import IDENTITY, SQUASH
from stacker.layer.skeleton import reassemble
from stacker.store.store import Store
from stacker.stream.pipe import threaded
from stacker.stream.verify import verified
from stacker.tar.limits import Limits
from stacker.tar.reader import TarReader
from stacker.tree.compare import Difference, differences
from stacker.tree.scan import from_skeleton, scan_directory

if TYPE_CHECKING:
    from stacker.events import Emit
    from stacker.image.digest import DiffID
    from stacker.layer.paths import LayerPaths
    from stacker.layer.record import LayerRecord
    from stacker.tree.scan import Contents

_MOST: Final = 1000  # differences that are reported of one layer
_REPORT_EVERY: Final = 1 << 20  # bytes
_WORTH_A_THREAD: Final = 1 << 20  # bytes of tar
_UNLIMITED: Final = Limits(
    unpacked_bytes=1 << 62,
    entries=1 << 62,
    depth=1 << 30,
    pax_bytes=1 << 40,
    names=1 << 62,
    ratio=1 << 40,
)


@dataclass(frozen=True, slots=True)
class VerifyTask:
    """A layer of the store at ``store`` to verify.

    :param contents: read all file contents and compute the diff_id, too.
    """

    store: Path
    diff_id: DiffID
    contents: bool = True


@dataclass(frozen=True, slots=True)
class LayerVerified:
    """What verifying a layer found.

    :param differences: at most 1,000.
    :param damage: what is wrong with the layer as a whole; ``None`` if nothing is.
    """

    diff_id: DiffID
    differences: tuple[Difference, ...] = ()
    damage: str | None = None

    @property
    def is_sound(self) -> bool:
        """Whether the layer is exactly what its diff_id says."""
        return self.damage is None and not self.differences


def verify_layer(task: VerifyTask, emit: Emit) -> LayerVerified:
    """Verify one layer; the caller holds it against removal.

    :param emit: called once per MiB of contents.
    :raises NotFoundError: the layer is not in the store.
    :raises PermissionError: the caller may not read a file of the layer.
    """
    store = Store.open(task.store)
    paths = store.layers.paths(task.diff_id)
    if not paths.root.exists():
        raise NotFoundError(f"no such layer in the store: {task.diff_id}")
    try:
        record = store.layers.record(task.diff_id)
        found = _compared(store, task, paths, record)
    except PermissionError:
        raise
    except (IntegrityError, NotFoundError) as error:
        return LayerVerified(task.diff_id, damage=error.message)
    except OSError as error:
        return LayerVerified(task.diff_id, damage=f"{error.filename}: {error.strerror}")
    if found or not task.contents:
        return LayerVerified(task.diff_id, found)
    return _contents(task, paths, record, emit)


def _compared(
    store: Store, task: VerifyTask, paths: LayerPaths, record: LayerRecord
) -> tuple[Difference, ...]:
    got = scan_directory(paths.diff, record.whiteout_format, {})
    want = None if record.warnings else from_skeleton(paths, record)
    if want is not None:
        return tuple(islice(differences(got, want), _MOST))
    with store.staging.directory("verify") as directory:
        want = _unpacked_again(task, paths, record, directory)
        return tuple(islice(differences(got, want), _MOST))


def _unpacked_again(
    task: VerifyTask, paths: LayerPaths, record: LayerRecord, directory: Path
) -> Contents:
    """Unpack the layer from its own skeleton and tree, and scan the result."""
    what = f"layer {task.diff_id}"
    chunks = verified(reassemble(paths, record, what=what), digest=task.diff_id, what=what)
    tree = directory / "diff"
    tree.mkdir(mode=0o700)
    apply(
        TarReader(chunks, what=what, limits=_UNLIMITED),
        tree,
        replaced=directory / "replaced",
        whiteout_format=record.whiteout_format,
        idmap=SQUASH if record.squashed else IDENTITY,
        limits=_UNLIMITED,
    )
    return scan_directory(tree, record.whiteout_format, {})


def _contents(
    task: VerifyTask,
    paths: LayerPaths,
    record: LayerRecord,
    emit: Emit,
) -> LayerVerified:
    what = f"layer {task.diff_id}"
    chunks = reassemble(paths, record, what=what)
    try:
        if record.tar_bytes < _WORTH_A_THREAD:
            _read(verified(chunks, digest=task.diff_id, what=what), task, record, emit)
        else:
            with threaded(chunks) as read:
                _read(verified(read, digest=task.diff_id, what=what), task, record, emit)
    except IntegrityError as error:
        suspects = tuple(islice(_suspects(paths), _MOST))
        return LayerVerified(task.diff_id, suspects, None if suspects else error.message)
    return LayerVerified(task.diff_id)


def _read(
    chunks: Iterator[bytes],
    task: VerifyTask,
    record: LayerRecord,
    emit: Emit,
) -> None:
    done = reported = 0
    for chunk in chunks:
        done += len(chunk)
        if done - reported >= _REPORT_EVERY:
            reported = done
            emit(PackProgress(task.diff_id, done, record.tar_bytes))


def _suspects(paths: LayerPaths) -> Iterator[Difference]:
    """Return the files that may have the wrong contents: a diff_id does not say which.

    These are files that the kernel changed after the layer was committed, and files that have a
    size but no block on disk, which a power cut leaves.
    """
    top = os.fsencode(paths.diff)
    committed = os.stat(paths.record).st_mtime_ns
    for directory, _, names in os.walk(top):
        for name in names:
            path = directory + b"/" + name
            status = os.lstat(path)
            if not stat.S_ISREG(status.st_mode):
                continue
            inside = path[len(top) + 1 :]
            if status.st_ctime_ns > committed:
                yield Difference(inside, "contents", "changed after the commit", "unchanged")
            elif status.st_size and not status.st_blocks:
                yield Difference(inside, "contents", "no data on disk", f"{status.st_size} bytes")
