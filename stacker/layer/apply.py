"""Apply tar entries to an empty directory: this is how a layer is unpacked.

Entries and a directory come in; the layer's tree and a :class:`LayerRecord` go out.  Deletions are
written as overlayfs marks.  This module must not use digests, and does not use the layers below,
except through ``lower`` when a layer is applied again.

docs/rules.md has the rules.  Whiteouts act on lower layers wherever they are in the stream, so
they are collected and written after all entries.  Hard links may precede their targets.
Directories get their attributes last, children before parents.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from stacker.errors import LayerError, StackerError, full_disk_hint
from stacker.layer.links import apply_hard_link, resolve_pending
from stacker.layer.metadata import IDENTITY, IdMap, MetadataWriter
from stacker.layer.record import LayerRecord
from stacker.layer.root import IMPLIED, LayerRoot, LowerTree
from stacker.layer.symlinks import join
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.layer.whiteouts import WhiteoutWriter
from stacker.linux.filesystem import make_private
from stacker.tar.entry import (
    AufsFile,
    Directory,
    Entry,
    ExistingFile,
    File,
    HardLink,
    OpaqueWhiteout,
    Special,
    Symlink,
    Whiteout,
    printable,
)
from stacker.tar.limits import Limits

_CREATE: Final = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_LAYER_ERRORS: Final = {
    errno.ENAMETOOLONG: "a name or a link target is too long",
    errno.ELOOP: "a symbolic link is in place of a directory",
    errno.EINVAL: "the kernel refuses the name or value",
    errno.EMLINK: "too many hard links to one file",
    errno.EFBIG: "larger than the filesystem can hold",
    errno.E2BIG: "an extended attribute is too large",
    errno.ERANGE: "the name of an extended attribute is too long",
}


class EntryStream(Protocol):
    """A stream of entries, such as :class:`stacker.tar.reader.TarReader`."""

    what: str
    count: int

    def __iter__(self) -> Iterator[Entry]:
        """Yield the entries in order; ``count`` is the number of entries yielded so far."""

    def write_payload(self, fd: int, length: int) -> None:
        """Write the next ``length`` bytes of the last entry's payload to ``fd``."""


@contextmanager
def zero_umask() -> Iterator[None]:
    """Set the umask of the whole process to 0, so that files are created with their final modes."""
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
    with zero_umask(), LayerRoot(root, replaced=replaced, lower=lower, limits=limits) as tree:
        return _Applier(entries, tree, whiteout_format, idmap, limits).run()


class _Applier:
    def __init__(
        self,
        entries: EntryStream,
        tree: LayerRoot,
        whiteout_format: WhiteoutFormat,
        idmap: IdMap,
        limits: Limits,
    ) -> None:
        self._entries = entries
        self._tree = tree
        self._format = whiteout_format
        self._idmap = idmap
        self._max_bytes = limits.unpacked_bytes
        self._metadata = MetadataWriter(whiteout_format, idmap)
        self._finish = self._metadata.finish  # looked up once, since every file calls these two
        self._write_payload = entries.write_payload
        self._whiteouts = WhiteoutWriter(whiteout_format, tree.budget)
        self._moved: dict[int, bytes] = {}
        self._revisited: set[bytes] = {b""}
        self._finishing: bytes | None = None
        self._files = self._bytes = 0
        self._steps: dict[type[Entry], Callable[[Any], None]] = {
            File: self._file,
            Directory: self._directory,
            Symlink: self._symlink,
            HardLink: self._hard_link,
            Special: self._special,
            Whiteout: self._whiteouts.add,
            OpaqueWhiteout: self._whiteouts.add_opaque,
            AufsFile: self._ignore,
            ExistingFile: self._existing_file,
        }

    def run(self) -> LayerRecord:
        entry: Entry | None = None
        steps, tree, entries = self._steps, self._tree, self._entries
        try:
            for tree.entry_number, entry in enumerate(entries):
                steps[type(entry)](entry)
            entry = None
            deferred = resolve_pending(tree, entries.what)
            self._whiteouts.write(tree)
            self._finish_directories()
        except OSError as error:
            raise self._translate_error(error, entry) from error
        metadata, whiteouts = self._metadata, self._whiteouts
        return LayerRecord(
            whiteout_format=self._format,
            squashed=self._idmap.squash,
            entries=entries.count,
            files=self._files,
            file_bytes=self._bytes,
            whiteouts=whiteouts.written,
            whiteout_parents=frozenset(whiteouts.parents),
            opaque=frozenset(whiteouts.opaque),
            implied=frozenset(p for p, meta in tree.directories.items() if meta is None),
            assumed=frozenset(tree.assumed),
            deferred_links=deferred,
            stranded=tuple(whiteouts.stranded),
            stranded_opaque=tuple(whiteouts.stranded_opaque),
            escaped_xattrs=metadata.escaped,
            moved=self._moved,
            replacements=tuple(tree.replacements),
            warnings=tuple(metadata.warnings.values()),
        )

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

    def _count(self, size: int) -> None:
        self._files += 1
        self._bytes += size
        if self._bytes > self._max_bytes:
            raise LayerError(
                f"over a limit: {self._entries.what}: got files of more than "
                f"{self._max_bytes} bytes in total, want fewer",
                hint="raise the limit with --max-bytes if you trust the image",
            )

    def _write_sparse(self, fd: int, entry: File) -> None:
        for offset, length in entry.segments or ():
            os.lseek(fd, offset, os.SEEK_SET)
            self._write_payload(fd, length)
        os.ftruncate(fd, entry.size)

    def _directory(self, entry: Directory) -> None:
        path, meta = entry
        above, _, name = path.rpartition(b"/")
        if name:
            parent, physical = self._tree.parent(above)
            path = join(physical, name)
            if not self._tree.make_directory(parent, name, path, meta.mode):
                self._revisited.add(path)
                self._tree.assumed.discard(path)
        if meta.xattrs:
            self._tree.budget.spend(sum(map(len, meta.xattrs.values())), path)
        self._tree.directories[path] = meta

    def _symlink(self, entry: Symlink) -> None:
        parent, name = self._parent_of(entry)
        if not entry.target or b"\0" in entry.target:
            raise LayerError(
                f"malformed symlink: {self._entries.what}: {printable(entry.path)}: "
                f"got the target {entry.target!r}, want a path"
            )
        self._create(parent, name, entry, lambda: os.symlink(entry.target, name, dir_fd=parent))
        self._metadata.finish_name(parent, name, entry.meta, is_symlink=True)

    def _special(self, entry: Special) -> None:
        parent, name = self._parent_of(entry)
        if entry.kind == stat.S_IFCHR and entry.device == 0:
            raise LayerError(
                f"overlay whiteout in a layer: {self._entries.what}: {printable(entry.path)}: got "
                "the character device 0:0, which hides a file of another layer, want a `.wh.` file"
            )
        mode = entry.kind | entry.meta.mode
        try:
            self._create(
                parent, name, entry, lambda: os.mknod(name, mode, entry.device, dir_fd=parent)
            )
        except PermissionError as error:
            if not self._idmap.squash:
                raise
            self._metadata.warn(
                "device", f"omitted devices: {printable(entry.path)} and others: {error.strerror}"
            )
            physical = self._tree.parent(entry.path.rpartition(b"/")[0])[1]
            self._whiteouts.add(
                Whiteout(join(physical, name))
            )  # a device that cannot be made still hides a lower file
            return
        self._metadata.finish_name(parent, name, entry.meta, is_symlink=False)

    def _hard_link(self, entry: HardLink) -> None:
        if not entry.path:
            raise self._not_the_root(entry)
        apply_hard_link(self._tree, entry, self._entries.what)

    def _ignore(self, entry: AufsFile) -> None:
        pass

    def _existing_file(self, entry: ExistingFile) -> None:
        parent, name = self._parent_of(entry)
        self._count(entry.size)
        self._create(
            parent,
            name,
            entry,
            lambda: os.link(entry.source, name, dst_dir_fd=parent, follow_symlinks=False),
        )

    def _parent_of(self, entry: Symlink | Special | ExistingFile) -> tuple[int, bytes]:
        above, _, name = entry.path.rpartition(b"/")
        if not name:
            raise self._not_the_root(entry)
        parent, physical = self._tree.parent(above)
        self._tree.pending.discard(join(physical, name))
        return parent, name

    def _create(
        self,
        parent: int,
        name: bytes,
        entry: Symlink | Special | ExistingFile,
        make: Callable[[], None],
    ) -> None:
        try:
            make()
        except FileExistsError:
            physical = self._tree.parent(entry.path.rpartition(b"/")[0])[1]
            self._tree.set_aside(parent, name, join(physical, name))
            make()

    def _finish_directories(self) -> None:
        """Set directory attributes, which creating children would have changed."""
        directories = self._tree.directories
        with closing(self._tree.innermost_first()) as opened:
            for path, fd in opened:
                self._finishing = path
                meta = directories[path] or IMPLIED
                made = -1 if path in self._revisited else meta.mode | 0o700
                self._finish(fd, meta, created_mode=made)

    def _not_the_root(self, entry: Entry) -> LayerError:
        return LayerError(
            f"malformed layer: {self._entries.what}: got a {type(entry).__name__} as the root "
            "directory, want a directory"
        )

    def _translate_error(self, error: OSError, entry: Entry | None) -> StackerError:
        path = self._finishing if entry is None else entry.path
        where = "the final pass" if path is None else printable(path or b"/")
        fault = _LAYER_ERRORS.get(error.errno or 0)
        if fault is not None:
            return LayerError(f"cannot unpack: {self._entries.what}: {where}: {fault}")
        hint = full_disk_hint(error)
        if isinstance(error, PermissionError):
            hint = "unpack as root, or in a user namespace that maps the image's owners"
        return StackerError(
            f"cannot unpack: {self._entries.what}: {where}: {error.strerror}", hint=hint
        )
