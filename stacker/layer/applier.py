"""The rules for applying tar entries to a growing tree.

Entries and a :class:`~stacker.layer.root.LayerRoot` come in; a complete tree and a
:class:`LayerRecord` go out.  Subclasses of :class:`Applier` write files and attributes, on disk
(:mod:`stacker.layer.apply`) or in memory (:mod:`stacker.layer.apply_index`).  This module must not
use digests or a filesystem.

docs/rules.md has the rules.  Whiteouts act on lower layers wherever they are in the stream, so
they are collected and written after all entries.  Hard links may precede their targets.
A link without a target in its layer is part of the record, and the stack makes it.  The header of
a link repeats the metadata of its target, so a link gets none.  Directories get their attributes
last, children before parents.
"""

from __future__ import annotations

import errno
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol, TypeVar

from stacker.errors import LayerError, StackerError, full_disk_hint
from stacker.layer.paths import Form
from stacker.layer.record import LayerRecord
from stacker.layer.root import LayerRoot
from stacker.layer.symlinks import join
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.layer.whiteouts import WhiteoutWriter
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

Made = TypeVar("Made")
_DEFERRED_BYTES: Final = 300
"""Bytes of memory for a link of the record, besides its names, when a stack is built."""
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


class MetadataRules(Protocol):
    """What decides which metadata of entries is kept."""

    warnings: dict[str, str]
    """One line for each kind of attribute or file that was omitted."""
    escaped: bool
    """Whether an xattr name of overlayfs was escaped."""


class Applier(ABC):
    """Applies entries to a tree.

    :param whiteout_format: how deletions are written.
    :param squash: the process that unpacks owns every file.
    """

    form: Form
    """The form that is written."""
    _metadata: MetadataRules

    def __init__(
        self,
        entries: EntryStream,
        tree: LayerRoot,
        *,
        whiteout_format: WhiteoutFormat,
        squash: bool,
        limits: Limits,
    ) -> None:
        self._entries = entries
        self._tree = tree
        self._format = whiteout_format
        self._squash = squash
        self._max_bytes = limits.unpacked_bytes
        self._whiteouts = WhiteoutWriter(tree.budget)
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
            AufsFile: lambda _: None,
            ExistingFile: self._existing_file,
        }

    @abstractmethod
    def _file(self, entry: File) -> None:
        """Write a regular file."""

    @abstractmethod
    def _make_symlink(self, parent: int, name: bytes, entry: Symlink) -> None:
        """Make a symbolic link with its attributes."""

    @abstractmethod
    def _make_special(self, parent: int, name: bytes, entry: Special) -> bool:
        """Make a device or a FIFO with its attributes; return whether it was possible."""

    @abstractmethod
    def _existing_file(self, entry: ExistingFile) -> None:
        """Add a file of a layer that is applied again."""

    @abstractmethod
    def _finish_directories(self) -> None:
        """Set the attributes of directories, which creating children would have changed."""

    def run(self) -> LayerRecord:
        """Apply every entry; return the record without the blob's digest and the stream's length.

        :raises LayerError: the layer is malformed, leaves the root, or exceeds a limit.
        :raises StackerError: the kernel refuses a system call (a full disk, missing privileges).
        """
        entry: Entry | None = None
        steps, tree, entries = self._steps, self._tree, self._entries
        try:
            for tree.entry_number, entry in enumerate(entries):
                steps[type(entry)](entry)
            entry = None
            deferred = _resolve_pending(tree, entries.what)
            self._whiteouts.write(tree)
            self._finish_directories()
        except OSError as error:
            raise self._translate_error(error, entry) from error
        whiteouts = self._whiteouts
        return LayerRecord(
            whiteout_format=self._format,
            form=self.form,
            squashed=self._squash,
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
            escaped_xattrs=self._metadata.escaped,
            moved=self._moved,
            replacements=tuple(tree.replacements),
            warnings=tuple(self._metadata.warnings.values()),
        )

    def _count(self, size: int) -> None:
        self._files += 1
        self._bytes += size
        if self._bytes > self._max_bytes:
            raise LayerError(
                f"over a limit: {self._entries.what}: got files of more than "
                f"{self._max_bytes} bytes in total, want fewer",
                hint="raise the limit with --max-bytes if you trust the image",
            )

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
        self._create(parent, name, entry, lambda: self._make_symlink(parent, name, entry))

    def _special(self, entry: Special) -> None:
        parent, name = self._parent_of(entry)
        if entry.kind == stat.S_IFCHR and entry.device == 0:
            raise LayerError(
                f"overlay whiteout in a layer: {self._entries.what}: {printable(entry.path)}: got "
                "the character device 0:0, which hides a file of another layer, want a `.wh.` file"
            )
        if not self._create(parent, name, entry, lambda: self._make_special(parent, name, entry)):
            physical = self._tree.parent(entry.path.rpartition(b"/")[0])[1]
            self._whiteouts.add(
                Whiteout(join(physical, name))
            )  # a device that cannot be made still hides a lower file

    def _hard_link(self, entry: HardLink) -> None:
        if not entry.path:
            raise self._not_the_root(entry)
        _make_hard_link(self._tree, entry, self._entries.what)

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
        make: Callable[[], Made],
    ) -> Made:
        try:
            return make()
        except FileExistsError:
            physical = self._tree.parent(entry.path.rpartition(b"/")[0])[1]
            self._tree.set_aside(parent, name, join(physical, name))
            return make()

    def _not_the_root(self, entry: Entry) -> LayerError:
        return LayerError(
            f"malformed layer: {self._entries.what}: got a {type(entry).__name__} as the root "
            "directory, want a directory"
        )

    def _translate_error(self, error: OSError, entry: Entry | None) -> StackerError:
        path = self._finishing if entry is None else entry.path
        place = "the final pass" if path is None else printable(path or b"/")
        fault = _LAYER_ERRORS.get(error.errno or 0)
        if fault is not None:
            return LayerError(f"cannot unpack: {self._entries.what}: {place}: {fault}")
        hint = full_disk_hint(error)
        if isinstance(error, PermissionError):
            hint = "unpack as root, or in a user namespace that maps the image's owners"
        return StackerError(
            f"cannot unpack: {self._entries.what}: {place}: {error.strerror}", hint=hint
        )


def _make_hard_link(tree: LayerRoot, entry: HardLink, what: str) -> None:
    """Make a hard link, or add its physical path to ``tree.pending``.

    :raises LayerError: the target is a directory.
    """
    above, _, name = entry.path.rpartition(b"/")
    parent, physical = tree.parent(above)
    path = join(physical, name)
    target_above, _, target_name = entry.target.rpartition(b"/")
    found = tree.existing(target_above)
    if found is not None and join(found[1], target_name) == path:
        # It changes nothing.  Only the stack knows whether a lower layer has the file.
        if path not in tree.pending and not tree.exists(parent, name):
            tree.defer(path, path)
        return
    if entry.target.startswith(path + b"/"):
        raise LayerError(
            f"malformed hard link: {what}: {printable(entry.path)}: got the target "
            f"{printable(entry.target)}, which is below the link itself, want a file elsewhere"
        )
    if found is not None:
        _has_target(tree, found, target_name, entry, what)
    parent, _ = tree.parent(above)
    if tree.exists(parent, name):
        tree.set_aside(parent, name, path)
    tree.pending.discard(path)
    if not _link(tree, entry, parent, name, what):
        tree.defer(path, entry.target)


def _has_target(
    tree: LayerRoot, directory: tuple[int, bytes], name: bytes, entry: HardLink, what: str
) -> bool:
    """Return whether the target of a link is in this layer.

    An implied directory does not count: a lower layer may have a symbolic link there.

    :raises LayerError: the target is a directory.
    """
    parent, physical = directory
    try:
        kind = tree.kind(parent, name)
    except FileNotFoundError:
        return False
    if kind != stat.S_IFDIR:
        return True
    if name and tree.directories[join(physical, name)] is None:
        return False
    raise LayerError(
        f"malformed hard link: {what}: {printable(entry.path)}: got the directory "
        f"{printable(entry.target) or '/'} as target, want a file"
    )


def _link(tree: LayerRoot, entry: HardLink, parent: int, name: bytes, what: str) -> bool:
    """Link the target and return whether it exists; a symbolic link is linked, not followed."""
    above, _, target = entry.target.rpartition(b"/")
    found = tree.existing(above)
    if found is None or not _has_target(tree, found, target, entry, what):
        return False
    tree.link(found[0], target, parent, name)
    return True


def _resolve_pending(tree: LayerRoot, what: str) -> tuple[HardLink, ...]:
    """Make the links whose targets came later; return the others in order."""

    def make(link: HardLink) -> bytes | None:
        parent, _ = tree.parent(link.path.rpartition(b"/")[0])
        if _link(tree, link, parent, link.path.rpartition(b"/")[2], what):
            return None
        above, _, name = link.target.rpartition(b"/")
        found = tree.existing(above)
        return link.target if found is None else join(found[1], name)

    tree.pending.make(make)
    for link in tree.pending:
        tree.budget.spend(_DEFERRED_BYTES, link.path)
    return tuple(tree.pending)
