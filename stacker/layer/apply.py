"""Apply tar entries to an empty directory: this is how a layer becomes a tree on disk.

Entries and a directory come in; the layer's tree and a :class:`LayerRecord` go out.  Deletions are
written as overlayfs marks.  The rules are in :mod:`stacker.layer.applier`.  This module does not
use the layers below, except through ``lower`` when a layer is applied again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from stacker.layer.applier import Applier, EntryStream
from stacker.layer.directory_root import DirectoryRoot
from stacker.layer.metadata import IDENTITY, IdMap, MetadataWriter
from stacker.layer.record import LayerRecord
from stacker.layer.root import IMPLIED, LowerTree
from stacker.layer.symlinks import join
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux.filesystem import make_private
from stacker.linux.process import usable_new_files
from stacker.tar.entry import ExistingFile, File, Special, Symlink, printable
from stacker.tar.limits import Limits

_CREATE: Final = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def zero_umask() -> Iterator[None]:
    """Set the umask of the whole process to 0, so that files are created with their final modes.

    Only a worker process may do so: other threads of the caller would create files for all users.
    """
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def apply(
    entries: EntryStream,
    root: Path,
    *,
    replaced: Path,
    whiteout_format: WhiteoutFormat,
    idmap: IdMap = IDENTITY,
    limits: Limits | None = None,
    lower: LowerTree | None = None,
) -> LayerRecord:
    """Apply every entry to the empty directory ``root``.

    :param replaced: the directory for files that later entries replace; made when needed.
    :param whiteout_format: how deletions are written.
    :param lower: the tree below, when a layer is applied again to a known stack.
    :returns: the record, without the blob's digest and the length of the stream.
    :raises LayerError: the layer is malformed, leaves the root, or exceeds a limit.
    :raises StackerError: the kernel refuses a system call (a full disk, missing privileges).
    """
    limits = limits or Limits()
    make_private(os.fsencode(root))
    tree = DirectoryRoot(
        root, replaced=replaced, whiteout_format=whiteout_format, lower=lower, limits=limits
    )
    with usable_new_files() as refused, tree:
        metadata = MetadataWriter(whiteout_format, idmap, refused)
        return _DirectoryApplier(entries, tree, metadata, limits, squash=idmap.squash).run()


class _DirectoryApplier(Applier):
    form = "tree"
    _tree: DirectoryRoot
    _metadata: MetadataWriter

    def __init__(
        self,
        entries: EntryStream,
        tree: DirectoryRoot,
        metadata: MetadataWriter,
        limits: Limits,
        *,
        squash: bool,
    ) -> None:
        super().__init__(
            entries, tree, whiteout_format=metadata.format, squash=squash, limits=limits
        )
        self._metadata = metadata
        self._finish = self._metadata.finish  # looked up once, since every file calls these two
        self._write_payload = entries.write_payload

    def _file(self, entry: File) -> None:
        path, meta, size, stored, segments = entry
        above, _, name = path.rpartition(b"/")
        if not name:
            raise self._not_the_root(entry)
        tree = self._tree
        parent, physical = tree.parent(above)
        self._count(size)
        mode = meta[0]
        try:
            fd = os.open(name, _CREATE, mode, dir_fd=parent)
        except FileExistsError:
            tree.set_aside(parent, name, join(physical, name))
            fd = os.open(name, _CREATE, mode, dir_fd=parent)
        try:
            if segments is not None:
                self._write_sparse(fd, entry)
            elif stored:
                self._write_payload(fd, stored)
            self._finish(fd, meta, created_mode=mode)
        finally:
            os.close(fd)
        if physical != above:
            self._moved[tree.entry_number] = path = join(physical, name)
            tree.budget.spend(len(path), path)
        if tree.pending.count:
            tree.pending.discard(join(physical, name))

    def _write_sparse(self, fd: int, entry: File) -> None:
        for offset, length in entry.segments or ():
            os.lseek(fd, offset, os.SEEK_SET)
            self._write_payload(fd, length)
        os.ftruncate(fd, entry.size)

    def _make_symlink(self, parent: int, name: bytes, entry: Symlink) -> None:
        os.symlink(entry.target, name, dir_fd=parent)
        self._metadata.finish_name(parent, name, entry.meta, is_symlink=True)

    def _make_special(self, parent: int, name: bytes, entry: Special) -> bool:
        try:
            os.mknod(name, entry.kind | entry.meta.mode, entry.device, dir_fd=parent)
        except PermissionError as error:
            if not self._squash:
                raise
            self._metadata.warn(
                "device", f"omitted devices: {printable(entry.path)} and others: {error.strerror}"
            )
            return False
        self._metadata.finish_name(parent, name, entry.meta, is_symlink=False)
        return True

    def _existing_file(self, entry: ExistingFile) -> None:
        parent, name = self._parent_of(entry)
        self._count(entry.size)
        self._create(
            parent,
            name,
            entry,
            lambda: os.link(entry.source, name, dst_dir_fd=parent, follow_symlinks=False),
        )

    def _finish_directories(self) -> None:
        directories = self._tree.directories
        with closing(self._tree.innermost_first()) as opened:
            for path, fd in opened:
                self._finishing = path
                meta = directories[path] or IMPLIED
                made = -1 if path in self._revisited else meta.mode | 0o700
                self._finish(fd, meta, created_mode=made)
