"""System calls that the standard library lacks, through syscall(2) and the C library.

`syscall` takes a number and arguments, and returns a non-negative result or raises `OSError` with
the path.  The calls themselves are defined in the modules that need them.  The first call loads
ctypes, so that importing this module is cheap.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import ctypes

    AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]

PATH_MAX: Final = 4096
"""The longest path that a system call accepts, with its final NUL: linux/limits.h."""


def syscall(number: int, *arguments: int | bytes | None, path: AnyPath | None = None) -> int:
    """Make one system call.

    :param number: the call's number on this machine.
    :param arguments: integers, byte strings without NUL (passed as pointers), ``None`` for a
        null pointer.
    :param path: path for the error.
    :returns: the result, 0 or more.
    :raises OSError: the call fails; the error has its errno and the path.
    """
    import ctypes

    words = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    return checked(libc().syscall(ctypes.c_long(number), *words), path)


def checked(result: int, path: AnyPath | None = None) -> int:
    """Return the result of a C function, or raise the error in errno.

    :param result: negative after a failure.
    :param path: path for the error.
    :raises OSError: the result is negative.
    """
    if result >= 0:
        return result
    import ctypes

    number = ctypes.get_errno()
    if path is None:
        raise OSError(number, os.strerror(number))
    raise OSError(number, os.strerror(number), os.fspath(path))


@cache
def libc() -> ctypes.CDLL:
    """Return the C library of this process, with a copy of errno for each thread."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    return library
