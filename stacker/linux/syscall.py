"""System calls the standard library has no function for, through the C library's `syscall`.

In come a call's number and its arguments; out goes a non-negative result or an `OSError` that
names the path.  Knows no call in particular.  ctypes is loaded at the first call, so that
importing this costs nothing.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

    AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def syscall(number: int, *arguments: int | bytes | None, path: AnyPath | None = None) -> int:
    """Make one system call.

    :param number: the call's number on this machine.
    :param arguments: integers, byte strings without NUL (passed as pointers), ``None`` for a
        null pointer.
    :param path: what the call is about, for the error.
    :raises OSError: with the call's errno and the path.
    """
    import ctypes

    words = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    return checked(libc().syscall(ctypes.c_long(number), *words), path)


def checked(result: int, path: AnyPath | None = None) -> int:
    """Return a call's result, or raise what errno says.

    :raises OSError: with the errno and the path, when the result is negative.
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
    """Return the C library this process runs on, with errno kept per thread."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    return library
