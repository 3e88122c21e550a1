"""Verify one unpacked layer: its tree against its skeleton, and its bytes against its diff_id.

    skeleton          -> entries -> compared with the tree on disk
    skeleton + tree   -> tar     -> SHA-256, compared with the diff_id
    layer.tar         -> SHA-256, compared with the diff_id, and -> index, compared with the index

A task comes in, a plain value that travels to a worker process; the differences go out.  A sound
layer gets a file of checksums; this module changes nothing else, and must not use images.
"""

from __future__ import annotations

import gc
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stacker.errors import IntegrityError, LayerError, NotFoundError, path_of
from stacker.events import PackProgress
from stacker.jobs.seal_layer import seal_differences
from stacker.jobs.verify_index import verify_index
from stacker.layer.apply import apply
from stacker.layer.checksums import (
    FileContents,
    new_checksums,
    read_checksums,
    write_checksums,
    wrong_contents,
)
from stacker.layer.metadata import IdMap
from stacker.layer.skeleton import Observer, damaged_files, open_skeleton, reassemble
from stacker.layer.tar_stream import contents_in_tar, whole_tar
from stacker.store.store import Store
from stacker.stream.pipe import threaded
from stacker.stream.verify import verified
from stacker.tar.entry import printable
from stacker.tar.limits import UNLIMITED
from stacker.tree.compare import MOST_DIFFERENCES, Difference, differences
from stacker.tree.scan import scan_directory
from stacker.tree.skeleton_contents import LayerComparison, from_skeleton

if TYPE_CHECKING:
    from array import array

    from stacker.events import Emit
    from stacker.image.digest import DiffID
    from stacker.layer.paths import LayerPaths
    from stacker.layer.record import LayerRecord
    from stacker.tree.scan import Contents

_REPORT_EVERY: Final = 1 << 20  # bytes
_WORTH_A_THREAD: Final = 1 << 20  # bytes of tar
_AHEAD: Final = 8  # chunks, which together stay in the cache of a processor


@dataclass(frozen=True, slots=True)
class VerifyTask:
    """A layer of the store at ``store`` to verify.

    :param attributes: compare the attributes of all files.
    :param contents: read all file contents, and compute the diff_id.
    :param trusted: accept an index that was compared before, since another task reads the contents.
    """

    store: Store
    diff_id: DiffID
    attributes: bool = True
    contents: bool = True
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class LayerVerified:
    """The result of verifying a layer.

    :param differences: at most 1,000.
    :param damage: the damage of the layer as a whole; ``None`` without such damage.
    :param index: the checksum of its index, which equals the tar; ``None`` if it was not compared.
    """

    diff_id: DiffID
    differences: tuple[Difference, ...] = ()
    damage: str | None = None
    index: str | None = None

    @property
    def is_sound(self) -> bool:
        """Whether the layer matches its diff_id."""
        return self.damage is None and not self.differences

    def joined(self, other: LayerVerified) -> LayerVerified:
        """Return the result of two tasks for the same layer, sorted by path.

        A difference names a file, and explains the damage of the layer.
        """
        found = {*self.differences, *other.differences}
        replaced = {each.path for each in found if each.what in {"type", "size"}}
        named = (each for each in found if each.what != "contents" or each.path not in replaced)
        ordered = sorted(named, key=lambda each: (each.path, each.what))[:MOST_DIFFERENCES]
        damage = None if ordered else self.damage or other.damage
        return LayerVerified(self.diff_id, tuple(ordered), damage, self.index or other.index)


def verify_layer(task: VerifyTask, emit: Emit) -> LayerVerified:
    """Verify one layer, which the caller has locked.

    :param emit: called once per MiB of contents.
    :raises NotFoundError: the layer is not in the store.
    :raises PermissionError: the caller may not read a file of the layer.
    """
    store = task.store
    paths = store.layers.paths(task.diff_id)
    if not paths.root.exists():
        raise NotFoundError(
            f"no such layer in the store: {task.diff_id}",
            hint="pull the image again with `stacker pull`",
        )
    try:
        with _without_garbage_collection():
            return _verified(store, task, paths, emit)
    except PermissionError:
        raise
    except (IntegrityError, NotFoundError) as error:
        return LayerVerified(task.diff_id, damage=error.message)
    except OSError as error:
        return LayerVerified(task.diff_id, damage=explained(error))


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Turn the collector off: entries have no cycles, and it would visit each of them often."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _verified(store: Store, task: VerifyTask, paths: LayerPaths, emit: Emit) -> LayerVerified:
    record, forms = store.layers.record(task.diff_id), paths.forms
    if task.attributes and task.contents and forms == ("tree",) and is_usual(record):
        return _whole(store, task, record, emit)
    found, index = tuple[Difference, ...](), None
    if task.attributes and "tree" in forms:
        every = *_compared(store, task, paths, record), *seal_differences(paths)
        found = every[:MOST_DIFFERENCES]
    if task.attributes and "erofs" in forms:
        more, index = verify_index(task.diff_id, paths, record, trusted=task.trusted)
        found += more
    if not forms:
        raise IntegrityError(f"damaged layer: layer {task.diff_id}: got neither a tree nor a tar")
    if found or not task.contents:
        return LayerVerified(task.diff_id, found[:MOST_DIFFERENCES], index=index)
    if "erofs" in forms:
        result = _check_tar(store, task, record, emit)
        if not result.is_sound or "tree" not in forms:
            return result
    return _contents(store, task, record, emit)


def _check_tar(store: Store, task: VerifyTask, record: LayerRecord, emit: Emit) -> LayerVerified:
    """Check the tar of a layer against the diff_id; name the files that explain a difference."""
    paths, what = store.layers.paths(task.diff_id), f"layer {task.diff_id}"
    try:
        _check_digest(whole_tar(paths, record, what=what), task, record, emit)
    except PermissionError:
        raise
    except (IntegrityError, OSError) as error:
        return _explained(task, _damaged_in_tar(paths, record, what), error)
    if read_checksums(paths.checksums) is None:
        checksums = new_checksums()
        for each in contents_in_tar(paths, record, what=what):
            if not isinstance(each.got, str):
                checksums.extend(each.got)
        _keep_checksums(store, paths, checksums)
    return LayerVerified(task.diff_id)


def _damaged_in_tar(paths: LayerPaths, record: LayerRecord, what: str) -> Iterator[Difference]:
    """Yield the files whose contents in the tar are wrong, as far as checksums show."""
    checksums, found = read_checksums(paths.checksums), list[FileContents]()
    with suppress(LayerError, OSError):  # of a header, which the index describes
        found += contents_in_tar(paths, record, what=what)
    if checksums is not None and len(checksums) != sum(each.ranges for each in found):
        checksums = None
    for path, got, want in wrong_contents(found, checksums):
        yield Difference(path, "contents", got, want)


def _explained(
    task: VerifyTask, damaged: Iterator[Difference], error: IntegrityError | OSError
) -> LayerVerified:
    """Return the damage of a layer: the files with wrong contents, else the error."""
    named = tuple(islice(damaged, MOST_DIFFERENCES))
    message = error.message if isinstance(error, IntegrityError) else explained(error)
    return LayerVerified(task.diff_id, named, None if named else message)


def _compared(
    store: Store, task: VerifyTask, paths: LayerPaths, record: LayerRecord
) -> tuple[Difference, ...]:
    got = scan_directory(paths.diff, record.whiteout_format, {})
    want = None if record.warnings else from_skeleton(paths, record)
    if want is not None:
        return tuple(islice(differences(got, want), MOST_DIFFERENCES))
    with store.staging.directory("verify") as directory:
        want = _applied_again(task, paths, record, directory)
        return tuple(islice(differences(got, want), MOST_DIFFERENCES))


def _applied_again(
    task: VerifyTask, paths: LayerPaths, record: LayerRecord, directory: Path
) -> Contents:
    """Unpack the layer from its skeleton, with a hole in place of all contents, and scan it."""
    tree = directory / "diff"
    tree.mkdir(mode=0o700)
    what = f"layer {task.diff_id}"
    try:
        with open_skeleton(paths.skeleton, what=what) as reader:
            apply(
                reader,
                tree,
                replaced=directory / "replaced",
                whiteout_format=record.whiteout_format,
                idmap=IdMap(squash=record.squashed),
                limits=UNLIMITED,
            )
    except LayerError as error:
        raise IntegrityError(f"damaged skeleton: {error}") from error
    if reader.count != record.entries:  # zstd does not report a truncated frame
        raise IntegrityError(
            f"damaged skeleton: {what}: got {reader.count} entries, want {record.entries}"
        )
    return scan_directory(tree, record.whiteout_format, {})


def is_usual(record: LayerRecord) -> bool:
    """Return whether the skeleton probably gives the tree of a layer without unpacking it."""
    return not (record.moved or record.replacements or record.warnings)


def _whole(store: Store, task: VerifyTask, record: LayerRecord, emit: Emit) -> LayerVerified:
    """Compare attributes and contents, and open each file only once."""
    paths = store.layers.paths(task.diff_id)
    comparison = LayerComparison(paths, record)
    contents = _contents(store, task, record, emit, comparison)
    found = comparison.differences() if contents.is_sound else None
    if found is None:
        return verify_layer(replace(task, contents=False), emit).joined(contents)
    every = *islice(found, MOST_DIFFERENCES), *seal_differences(paths)
    return LayerVerified(task.diff_id, every[:MOST_DIFFERENCES]).joined(contents)


def _contents(
    store: Store,
    task: VerifyTask,
    record: LayerRecord,
    emit: Emit,
    observer: Observer | None = None,
) -> LayerVerified:
    paths, what = store.layers.paths(task.diff_id), f"layer {task.diff_id}"
    checksums = new_checksums() if read_checksums(paths.checksums) is None else None
    add = None if checksums is None else checksums.append
    chunks = reassemble(paths, record, what=what, checksum=add, observer=observer)
    try:
        _check_digest(chunks, task, record, emit)
    except PermissionError:
        raise
    except (IntegrityError, OSError) as error:
        return _explained(task, _damaged(paths, record, what), error)
    if checksums is not None:
        _keep_checksums(store, paths, checksums)
    return LayerVerified(task.diff_id)


def _keep_checksums(store: Store, paths: LayerPaths, checksums: array[int]) -> None:
    """Write the checksums of a sound layer, unless its store is additional, read-only or full."""
    if not paths.root.is_relative_to(store.changing):
        return
    with suppress(OSError), store.staging.directory("verify") as directory:
        write_checksums(paths.checksums, checksums, temporary=directory / "checksums")


def explained(error: OSError) -> str:
    """Return the path and the text of the kernel's error."""
    path = printable(os.fsencode(path_of(error) or "a file"))
    return f"{path}: {error.strerror}"


def _check_digest(
    chunks: Iterator[bytes], task: VerifyTask, record: LayerRecord, emit: Emit
) -> None:
    """Check a tar against the diff_id; another thread reads a large one ahead.

    :raises IntegrityError: they differ.
    """
    done = reported = 0
    ahead = (
        threaded(chunks, depth=_AHEAD)
        if record.tar_bytes >= _WORTH_A_THREAD
        else nullcontext(chunks)
    )
    with ahead as read:
        for chunk in verified(read, digest=task.diff_id, what=f"layer {task.diff_id}"):
            done += len(chunk)
            if done - reported >= _REPORT_EVERY:
                reported = done
                emit(PackProgress(task.diff_id, done, record.tar_bytes))


def _damaged(paths: LayerPaths, record: LayerRecord, what: str) -> Iterator[Difference]:
    """Yield the files with the wrong contents, which a diff_id does not identify."""
    found = False
    try:
        for path, got, want in damaged_files(paths, record, what=what):
            found = True
            yield Difference(path, "contents", got, want)
    except (LayerError, IntegrityError, OSError):  # of the skeleton
        return
    if not found:
        yield from _suspects(paths)


def _suspects(paths: LayerPaths) -> Iterator[Difference]:
    """Yield the files that may have the wrong contents, for a layer without checksums.

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
