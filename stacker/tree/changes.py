"""Write an upper directory as the tar of a layer.

A descriptor of the directory and its whiteout format come in; the chunks of a tar go out.  The tar
depends on the directory alone: names are in order, and holes are runs of zeros.  The processes of a
running mount can change the directory, so this module opens each name relative to a descriptor,
and must not follow symbolic links.
Sources: image-spec layer.md, "Representing Changes"; overlayfs.rst, "whiteouts and opaque
directories", "Sharing and copying layers".
"""

from __future__ import annotations

import os
import stat
from contextlib import closing
from typing import TYPE_CHECKING, Final, NamedTuple

from stacker.errors import StackerError, UnsupportedError
from stacker.layer.symlinks import join
from stacker.layer.whiteout_format import is_whiteout
from stacker.linux import opath, xattr
from stacker.tar.entry import OPAQUE_NAME, WHITEOUT_PREFIX, printable
from stacker.tar.write import END, Member, member_header
from stacker.tree.archive import HARD_LINK, KINDS, with_contents
from stacker.tree.contents import FileOnDisk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stacker.layer.whiteout_format import WhiteoutFormat

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BY_KERNEL: Final = b"security.selinux"
_FILE: Final = b"0"
_NANOSECONDS: Final = 1_000_000_000


class LayerOptions(NamedTuple):
    """How files become members of a layer.

    :param squash: this process owns every file in place of root and others.
    :param latest: seconds since the epoch; later times become this one (SOURCE_DATE_EPOCH).
    """

    squash: bool = False
    latest: int | None = None


class _Name(NamedTuple):
    name: bytes
    path: bytes
    status: os.stat_result


class UpperArchive:
    """The tar of an upper directory.

    ``entries`` counts the members so far, and ``warnings`` has a line for what a layer cannot hold.
    """

    def __init__(
        self, upper: int, whiteout_format: WhiteoutFormat, what: str, options: LayerOptions
    ) -> None:
        """Prepare the tar.

        :param upper: a descriptor of the directory, which stays open.
        :param what: the name of the directory in errors.
        """
        self.entries = 0
        self.warnings: tuple[str, ...] = ()
        self._upper = upper
        self._format = whiteout_format
        self._what = what
        self._options = options
        self._first: dict[tuple[int, int], bytes] = {}

    def chunks(self) -> Iterator[bytes]:
        """Yield the tar.

        :raises UnsupportedError: a layer cannot hold a file.
        :raises StackerError: another process changes a file meanwhile.
        :raises OSError: the disk cannot read a file.
        """
        todo = [b""]
        while todo:
            path = todo.pop()
            directory = self._open(path)
            try:
                names = self._listed(directory, path)
                yield from self._directory(directory, path)
                for each in names:
                    if not stat.S_ISDIR(each.status.st_mode):
                        yield from self._leaf(directory, each)
            finally:
                os.close(directory)
            todo += [each.path for each in names[::-1] if stat.S_ISDIR(each.status.st_mode)]
        yield END

    def _open(self, path: bytes) -> int:
        """Open a directory; each component on its own, so that none is a symbolic link."""
        directory = os.open(b".", _DIRECTORY, dir_fd=self._upper)
        for name in path.split(b"/") if path else ():
            try:
                inner = opath.open_for_reading(name, os.O_DIRECTORY, directory=directory)
            finally:
                os.close(directory)
            directory = inner
        return directory

    def _listed(self, directory: int, path: bytes) -> list[_Name]:
        with os.scandir(directory) as entries:
            names = [(os.fsencode(e.name), e.stat(follow_symlinks=False)) for e in entries]
        return [_Name(name, join(path, name), status) for name, status in sorted(names)]

    def _directory(self, directory: int, path: bytes) -> Iterator[bytes]:
        status = os.fstat(directory)
        xattrs = self._xattrs(directory, path)
        name = (path or b".") + b"/"
        yield self._header(self._member(name, status)._replace(xattrs=xattrs))
        if path and self._format.is_opaque(directory):
            yield self._header(Member(join(path, OPAQUE_NAME), _FILE))

    def _leaf(self, directory: int, entry: _Name) -> Iterator[bytes]:
        name, path, status = entry
        if name.startswith(WHITEOUT_PREFIX):
            raise self._unsupported(path, "a name that begins with .wh., which deletes in a layer")
        inode = status.st_dev, status.st_ino
        if is_whiteout(status):
            above = path.rpartition(b"/")[0]
            yield self._header(Member(join(above, WHITEOUT_PREFIX + name), _FILE))
        elif stat.S_ISSOCK(status.st_mode):
            if not self.warnings:
                self.warnings = (f"omitted sockets: /{printable(path)} and others",)
        elif (first := self._first.get(inode)) is not None:
            yield self._header(Member(path, HARD_LINK, target=first))
        elif stat.S_ISREG(status.st_mode):
            yield from self._file(directory, entry)
        else:
            location = b"/proc/self/fd/%d/%s" % (directory, name)
            member = self._member(path, status)._replace(xattrs=self._xattrs(location, path))
            if stat.S_ISLNK(status.st_mode):
                member = member._replace(target=os.readlink(name, dir_fd=directory))
            self._remember(inode, entry)
            yield self._header(member)

    def _file(self, directory: int, entry: _Name) -> Iterator[bytes]:
        name, path, listed = entry
        descriptor = opath.open_for_reading(name, os.O_NONBLOCK, directory=directory)
        with closing(FileOnDisk(descriptor, os.fstat(descriptor).st_size)) as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise self._changed(path)
            xattrs = self._xattrs(descriptor, path)
            if self._format.prefix + b"whiteout" in dict(xattr.items(descriptor)):
                raise self._unsupported(path, "a whiteout of a nested overlay")
            self._remember((listed.st_dev, listed.st_ino), entry)
            member = self._member(path, status)._replace(xattrs=xattrs)
            self.entries += 1
            try:
                yield from with_contents(file, member)
            except OSError as error:
                raise self._changed(path) from error

    def _remember(self, inode: tuple[int, int], entry: _Name) -> None:
        if entry.status.st_nlink > 1:
            self._first[inode] = entry.path

    def _header(self, member: Member) -> bytes:
        self.entries += 1
        return member_header(member)

    def _member(self, path: bytes, status: os.stat_result) -> Member:
        device = status.st_rdev if stat.S_IFMT(status.st_mode) in _DEVICES else 0
        mtime = status.st_mtime_ns
        if self._options.latest is not None:
            mtime = min(mtime, self._options.latest * _NANOSECONDS)
        return Member(
            name=path,
            kind=KINDS[stat.S_IFMT(status.st_mode)],
            mode=stat.S_IMODE(status.st_mode),
            uid=0 if self._options.squash else status.st_uid,
            gid=0 if self._options.squash else status.st_gid,
            mtime=mtime,
            device=(os.major(device), os.minor(device)),
        )

    def _xattrs(self, target: int | bytes, path: bytes) -> dict[bytes, bytes]:
        """Return the xattrs of a file as the mount shows them, without overlayfs's marks."""
        xattrs = {}
        for listed, value in xattr.items(target):
            if listed in {self._format.prefix + mark for mark in (b"metacopy", b"redirect")}:
                mark = listed.rpartition(b".")[2].decode()
                raise self._unsupported(path, f"a file of an overlay with {mark}")
            name = self._format.unescape(listed)
            if name is not None and name != _BY_KERNEL:
                xattrs[name] = value
        return xattrs

    def _unsupported(self, path: bytes, got: str) -> UnsupportedError:
        return UnsupportedError(
            f"cannot write as a layer: {self._what}: /{printable(path)}: got {got}",
            hint="remove or rename it",
        )

    def _changed(self, path: bytes) -> StackerError:
        return StackerError(
            f"changed meanwhile: {self._what}: /{printable(path)}",
            hint="end the processes that write, and run the command again",
        )


_DEVICES: Final = {stat.S_IFCHR, stat.S_IFBLK}
