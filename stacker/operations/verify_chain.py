"""Verify the chain of an image: build its stack again, and compare the directories of the two.

A task comes in, a plain value that travels to a worker process; the differences go out.  The layers
must be sound: the stack is a function of them.  The checksum of an equal index is kept in the
chain; this module must not change anything else of it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Final

from stacker.erofs.read import Image
from stacker.errors import IntegrityError, LayerError
from stacker.jobs.verify_index import keep_index_checksum
from stacker.jobs.verify_layer import explained
from stacker.layer.checksums import has_index_checksum, index_checksum
from stacker.layer.symlinks import join
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux.opath import open_for_reading
from stacker.operations.stack import build_form, unpacked_layers
from stacker.store.store import Store
from stacker.stream.compression import CHUNK
from stacker.tar.entry import File
from stacker.tar.limits import UNLIMITED
from stacker.tree.compare import MOST_DIFFERENCES, Difference, differences
from stacker.tree.compare_index import index_differences
from stacker.tree.scan import scan_directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stacker.events import Emit
    from stacker.image.digest import ChainID, DiffID
    from stacker.layer.paths import MergedIndex, Stack
    from stacker.tree.scan import Contents

_RECORD: Final = b"chain.json"


@dataclass(frozen=True, slots=True)
class ChainTask:
    """A chain of the store at ``store`` to verify.

    :param diff_ids: its layers, base first; the caller has verified them, and locked them and an
        image with this chain.
    :param contents: read the files that the chain does not share with a layer, too; the contents
        of the layers were verified, too, so an index that was compared before is accepted.
    """

    store: Store
    chain_id: ChainID
    diff_ids: tuple[DiffID, ...]
    contents: bool


@dataclass(frozen=True, slots=True)
class ChainVerified:
    """The result of verifying a chain.

    :param differences: at most 1,000; their paths start at the directory of the chain.
    :param damage: what is wrong with the chain as a whole; ``None`` if nothing is.
    """

    chain_id: ChainID
    differences: tuple[Difference, ...] = ()
    damage: str | None = None

    @property
    def is_sound(self) -> bool:
        """Whether the chain equals the stack that its layers give."""
        return self.damage is None and not self.differences


def verify_chain(task: ChainTask, emit: Emit) -> ChainVerified:
    """Verify one chain.  A chain that its next use builds again is sound.

    :raises OSError: the stack cannot be built, for example because the disk is full.
    """
    del emit  # building a stack reports no progress
    store = task.store
    with store.chains.building(task.chain_id) as directory:
        if not store.chains.is_certain(task.chain_id):
            return ChainVerified(task.chain_id)
        try:
            return ChainVerified(task.chain_id, _verified(store, task, directory))
        except (IntegrityError, LayerError) as error:
            return ChainVerified(task.chain_id, damage=error.message)


def _verified(store: Store, task: ChainTask, directory: Path) -> tuple[Difference, ...]:
    """Return the differences of a chain, and keep the checksum of a merged index that has none.

    :raises IntegrityError: the chain or a layer is damaged.
    :raises LayerError: the layers do not stack.
    :raises OSError: the stack cannot be built.
    """
    got, kept = store.chains.read(task.chain_id), store.chains.index_checksum(task.chain_id)
    checksum = _checksum(store, task, got) if task.contents else None
    if checksum is not None and has_index_checksum(kept, checksum):
        return ()
    layers = unpacked_layers(store, task.diff_ids, got.form)
    want = build_form(layers, directory, got.form, store.whiteout_format, limits=UNLIMITED)
    chain = store.chains.path(task.chain_id)
    try:
        every = stack_differences(chain, got, directory, want, contents=task.contents)
        found = tuple(islice(every, MOST_DIFFERENCES))
    except OSError as error:
        raise IntegrityError(explained(error)) from error
    if checksum is not None and not found:
        keep_index_checksum(store, kept, checksum)
    return found


def _checksum(store: Store, task: ChainTask, stack: Stack) -> str | None:
    """Return the checksum of a merged index, its root and its record, and of the layers.

    :returns: ``None`` for a stack of trees, and if a file is missing.
    """
    merged = stack.merged
    if merged is None or stack.directories:
        return None
    try:
        for tar in merged.tars:
            tar.stat()
        index = merged.path.read_bytes()
        record = (store.chains.path(task.chain_id) / os.fsdecode(_RECORD)).read_bytes()
        root = scan_directory(merged.root, WhiteoutFormat.TRUSTED, {})
    except OSError:
        return None
    mode, uid, gid, mtime, _, xattrs = root.top
    attributes = mode, uid, gid, mtime, sorted((xattrs or {}).items())
    names = sorted(root.directories[b""]), sorted(root.opaque)
    layers = (f"{each} {store.layers.record(each).to_json()!r}" for each in task.diff_ids)
    rest = map(str.encode, (f"{attributes} {names}", *layers))
    return index_checksum(index, record, *rest)


def stack_differences(
    chain: Path, got: Stack, directory: Path, want: Stack, *, contents: bool
) -> Iterator[Difference]:
    """Return every difference between two stacks of the same layers.

    :param chain: the directory with the repairs of ``got``.
    :param directory: the directory with the repairs of ``want``.
    :param contents: compare the files that are not hard links to files of a layer, too.
    :raises OSError: the kernel's error.
    """
    if got.merged is not None and want.merged is not None:
        yield from _merged_differences(got.merged, want.merged)
    repairs = [p.relative_to(directory) for p in want.directories if p.is_relative_to(directory)]
    moved = [
        chain / p.relative_to(directory) if p.is_relative_to(directory) else p
        for p in want.directories
    ]
    for what, found, wanted in (
        ("directories", _listed(got.directories), _listed(moved)),
        ("whiteout format", got.whiteout_format.value, want.whiteout_format.value),
        ("plain", str(got.plain).lower(), str(want.plain).lower()),
    ):
        if found != wanted:
            yield Difference(_RECORD, what, found, wanted)
    for path in repairs:
        if not (chain / path).is_dir():
            yield Difference(os.fsencode(path), "type", "no directory", "directory")
            continue
        here, there = (
            scan_directory(top / path, want.whiteout_format, {}) for top in (chain, directory)
        )
        for each in differences(here, there):
            yield replace(each, path=join(os.fsencode(path), each.path).rstrip(b"/"))
        if contents:
            yield from _changed(os.fsencode(path), here, there)


def _merged_differences(got: MergedIndex, want: MergedIndex) -> Iterator[Difference]:
    """Compare two merged indexes, and the directories with the attributes of their roots."""
    name = os.fsencode(got.path.name)
    if got.tars != want.tars:
        yield Difference(_RECORD, "tars", _listed(got.tars), _listed(want.tars))
    found, wanted = got.path.read_bytes(), want.path.read_bytes()
    if found != wanted:
        images = Image(found, f"{got.path}"), Image(wanted, f"{want.path}")
        every = [*islice(index_differences(*images), MOST_DIFFERENCES)]
        if not every:
            yield Difference(name, "contents", "other bytes", "the layers'")
        yield from (replace(each, path=join(name, each.path)) for each in every)
    here, there = (scan_directory(each.root, WhiteoutFormat.TRUSTED, {}) for each in (got, want))
    for each in differences(here, there):
        yield replace(each, path=join(os.fsencode(got.root.name), each.path).rstrip(b"/"))


def _listed(directories: tuple[Path, ...] | list[Path]) -> str:
    return ":".join(map(str, directories))


def _changed(top: bytes, got: Contents, want: Contents) -> Iterator[Difference]:
    """Compare the contents of the files that are not hard links to files of a layer."""
    for above, items in want.directories.items():
        for name, item in items.items():
            path = join(above, name)
            found = got.find(path)
            if isinstance(item, File) and isinstance(found, File) and found.size == item.size:
                here, there = (tree.root + b"/" + path for tree in (got, want))
                if not _is_same(here, there):
                    yield Difference(join(top, path), "contents", "other bytes", "the layer's")


def _is_same(one: bytes, other: bytes) -> bool:
    if os.path.samestat(os.lstat(one), os.lstat(other)):
        return True
    with (
        open(open_for_reading(one, 0), "rb", buffering=0) as first,
        open(open_for_reading(other, 0), "rb", buffering=0) as second,
    ):
        while data := first.read(CHUNK):
            if data != second.read(len(data)):
                return False
        return True
