"""Filesystem types, atomic writes, syncs, reflinks and copies that keep holes.

Functions take paths or descriptors and raise `OSError` with the path.  This module does not use
layers or stores.  Sources: statfs(2), ioctl_ficlone(2), copy_file_range(2), lseek(2), syncfs(2).
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from stacker.linux import xattr
from stacker.linux.syscall import checked, libc

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

OVERLAY_MAGIC = 0x794C7630  # include/uapi/linux/magic.h, as are the next
TMPFS_MAGIC = 0x01021994
_FICLONE = 0x40049409
_CHUNK = 1 << 20
_TEMPORARY = ".new"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
PRIVATE = 0o600
"""The mode of every file of a store."""
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # include/uapi/linux/fs.h
# copy_file_range(2) does not support this pair of files; any other errno is a real failure.
_UNSUPPORTED_PAIR = {
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.ETXTBSY,
    errno.EPERM,
}
_NO_CLONE = _UNSUPPORTED_PAIR | {errno.ENOTTY, errno.EISDIR}


def filesystem_type(target: int | Path) -> int:
    """Return the magic number of the filesystem of a descriptor or path.

    :returns: `f_type` of statfs(2), as an unsigned 32-bit number.
    :raises OSError: statfs(2) fails.
    """
    import ctypes

    buffer = ctypes.create_string_buffer(256)  # struct statfs is 120 bytes and begins with f_type
    if isinstance(target, int):
        checked(libc().fstatfs(target, buffer))
    else:
        checked(libc().statfs(os.fsencode(target), buffer), target)
    # Some magics have the top bit set, and f_type is signed.
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF


def is_overlay(target: int | Path) -> bool:
    """Return whether a descriptor or path is on an overlayfs.

    :raises OSError: statfs(2) fails.
    """
    return filesystem_type(target) == OVERLAY_MAGIC


def is_tmpfs(target: int | Path) -> bool:
    """Return whether a descriptor or path is on a tmpfs.

    :raises OSError: statfs(2) fails.
    """
    return filesystem_type(target) == TMPFS_MAGIC


def write_atomically(
    path: Path, content: bytes, *, durable: bool = False, mode: int = PRIVATE
) -> None:
    """Write a file by a temporary file and rename(2); a failure leaves the old content.

    :param mode: the permissions of the file, whatever the umask.
    :param durable: flush the file and its directory, so that the new content survives a power
        cut.  Without it a power cut may leave the new name with no content.
    :raises OSError: the write fails; the error has the final path.
    """
    try:
        write_chunks_atomically(path, (content,), durable=durable, mode=mode)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_chunks_atomically(
    path: Path, chunks: Iterable[bytes], *, durable: bool = False, mode: int = PRIVATE
) -> None:
    """Write chunks to a temporary file, and rename it to ``path`` after the last one.

    :param mode: the permissions of the file, whatever the umask.
    :param durable: flush the file and its directory.
    :raises OSError: the write fails.  Errors of `chunks` pass through unchanged.
    """
    with replaced_atomically(path, durable=durable, mode=mode) as file:
        file.writelines(chunks)


def create_private(path: Path) -> BinaryIO:
    """Create a file with the mode `PRIVATE`, whatever the umask, and open it for writing.

    :raises OSError: the file exists, or cannot be created.
    """
    file = path.open("xb")
    path.chmod(PRIVATE)
    return file


@contextmanager
def replaced_atomically(
    path: Path, *, durable: bool = False, mode: int = PRIVATE
) -> Iterator[BinaryIO]:
    """Yield a new temporary file; after the block, rename it to ``path``, or remove it on errors.

    The file is locked until then (flock(2)).  `sweep_temporaries` removes the file of a killed
    writer.  The directory is opened once, and a file that another user created there is not used.

    :param mode: the permissions of the file, whatever the umask.
    :param durable: flush the file and its directory.
    :raises OSError: the file cannot be created, flushed or renamed.
    """
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        temporary, file = _locked_temporary(path, directory, mode)
        with file:
            try:
                yield file
                file.flush()
                if durable:
                    os.fsync(file.fileno())
                os.replace(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=directory)
                raise
        if durable:
            os.fsync(directory)
    finally:
        os.close(directory)


def _locked_temporary(path: Path, directory: int, mode: int) -> tuple[str, BinaryIO]:
    """Create a temporary file for ``path`` in its directory, and lock it.

    A sweep may lock and remove the file between its creation and our lock; then it is created
    again.
    """
    import fcntl

    while True:
        number = int.from_bytes(os.urandom(6), "big")
        temporary = f".{path.name}.{number}{_TEMPORARY}"
        try:
            file = os.fdopen(os.open(temporary, _NEW, mode, dir_fd=directory), "wb")
        except FileExistsError:
            continue
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:
                os.fchmod(file.fileno(), mode)
                return temporary, file
        except BaseException:
            file.close()
            raise
        file.close()


def is_temporary(name: str) -> bool:
    """Return whether a file name is that of a temporary file of `write_atomically`.

    Earlier versions named it without the suffix.
    """
    above, _, number = name.removesuffix(_TEMPORARY).rpartition(".")
    return above.startswith(".") and number.isdecimal()


def abandoned_temporaries(directory: Path, final: str | None = None) -> Iterator[Path]:
    """Yield the temporary files of writers that were killed, each locked until the next one.

    :param final: only temporary files of this file name.
    :raises OSError: the directory cannot be read.
    """
    import fcntl

    for name in filter(is_temporary, os.listdir(directory)):
        if final is not None and not name.startswith(f".{final}."):
            continue
        path = directory / name
        with suppress(FileNotFoundError, BlockingIOError), open(os.open(path, _OLD), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), path.lstat()):  # else it was renamed
                yield path


def sweep_temporaries(directory: Path, final: str | None = None) -> int:
    """Remove the temporary files of writers that were killed.

    :param final: sweep only temporary files of this file name.
    :returns: the number of removed files.
    :raises OSError: the directory cannot be read.
    """
    swept = 0
    for path in abandoned_temporaries(directory, final):
        path.unlink()
        swept += 1
    return swept


def sync_directory(directory: Path) -> None:
    """Flush the names in a directory to disk (fsync(2)).

    :raises OSError: the directory cannot be opened, or a write to the disk failed.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


FileIdentity: TypeAlias = "tuple[int, int, int] | None"
"""Device, inode number and time of change of a file; ``None`` if it is missing."""


def file_identity(path: Path | str, *, directory: int | None = None) -> FileIdentity:
    """Return a value that changes if another file replaces the file; ``None`` if it is missing.

    os.path.lexists counts a file as missing after an I/O error, too.

    :param directory: descriptor that a relative ``path`` starts at.
    """
    try:
        status = os.stat(path, dir_fd=directory, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns  # the kernel reuses inode numbers


def exchange(one: Path, other: Path) -> None:
    """Exchange two paths in one step (renameat2(2), RENAME_EXCHANGE).

    :raises OSError: one of them does not exist, or the filesystem cannot do it.
    """
    here = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
    checked(libc().renameat2(*here, _RENAME_EXCHANGE), one)


def syncfs(descriptor: int) -> None:
    """Flush the filesystem of a descriptor to disk (syncfs(2)).

    :raises OSError: a write to the disk failed.
    """
    checked(libc().syncfs(descriptor))


def sync_filesystem(directory: Path) -> None:
    """Flush the filesystem of a directory to disk (syncfs(2)).

    :raises OSError: the directory cannot be opened, or a write to the disk failed.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syncfs(fd)
    finally:
        os.close(fd)


def reflink(source: int, destination: int) -> bool:
    """Make a file share all blocks of another (ioctl_ficlone(2)).

    :param source: descriptor to read from.
    :param destination: descriptor of an empty file, open for writing.
    :returns: ``False`` if the filesystem has no reflinks for these files.
    :raises OSError: any other failure, such as a full disk or an I/O error.
    """
    import fcntl

    try:
        fcntl.ioctl(destination, _FICLONE, source)
    except OSError as error:
        if error.errno in _NO_CLONE:
            return False
        raise
    return True


def make_private(directory: int | bytes) -> None:
    """Set a directory to mode 0700, this process's owner and group, and no ACL.

    New files would inherit both from the parent: a default ACL replaces the umask, and a
    set-group-ID bit sets the group (acl(5), inode(7)).

    :param directory: a descriptor (not ``O_PATH``), or a path.
    :raises OSError: the kernel denies a change.
    """
    xattr.remove(directory, b"system.posix_acl_default")
    xattr.remove(directory, b"system.posix_acl_access")
    status, owner = os.stat(directory), (os.geteuid(), os.getegid())
    if (status.st_uid, status.st_gid) != owner:
        os.chown(directory, *owner)
    os.chmod(directory, 0o700)


def copy_range(source: int, destination: int, size: int) -> None:
    """Copy the first ``size`` bytes of a file into an empty file, and keep its holes.

    :param source: descriptor to read from.
    :param destination: descriptor of an empty file, open for writing.
    :param size: bytes; also the final size of the destination.
    :raises OSError: ENODATA if the source ends before `size`; otherwise the kernel's error.
    """
    os.ftruncate(destination, size)
    offset = 0
    while offset < size:
        start, end = _next_data(source, offset, size)
        copy_piece(source, start, destination, start, end - start)
        offset = end


def _next_data(source: int, offset: int, size: int) -> tuple[int, int]:
    """Return the next data range as (start, end), or (size, size) if only a hole is left."""
    try:
        start = os.lseek(source, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            if os.fstat(source).st_size < size:
                raise OSError(errno.ENODATA, f"the file ends before byte {size}") from None
            return size, size
        if error.errno == errno.EINVAL:  # the filesystem does not report holes
            return offset, size
        raise
    return min(start, size), min(os.lseek(source, start, os.SEEK_HOLE), size)


def copy_piece(source: int, start: int, destination: int, offset: int, length: int) -> None:
    """Copy a range of a file into another file.

    :param start: where the range starts in the source.
    :param offset: where it goes in the destination.
    :raises OSError: ENODATA if the source ends before the range; otherwise the kernel's error.
    """
    done = 0
    while done < length:
        at, to, left = start + done, offset + done, length - done
        try:
            count = os.copy_file_range(source, destination, left, at, to)
        except OSError as error:
            if error.errno not in _UNSUPPORTED_PAIR:
                raise
            count = 0
        if not count:  # Linux 5.3 to 5.18 returns 0 for pseudo files that read(2) can read
            _copy_by_reading(source, at, destination, to, left)
            return
        done += count


def _copy_by_reading(source: int, start: int, destination: int, offset: int, length: int) -> None:
    end = start + length
    while start < end:
        data = os.pread(source, min(_CHUNK, end - start), start)
        if not data:
            raise OSError(errno.ENODATA, f"the file ends at byte {start}, want {end}")
        count = os.pwrite(destination, data, offset)
        start, offset = start + count, offset + count
