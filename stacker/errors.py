"""Every error of this package, each class with its exit code.

A function raises one of these classes when the caller can act on the failure; other exceptions
are bugs, or an `OSError` with a path.  A message reads *what failed: which object: got X, want Y*.
A hint names the command or option to use next.  This module does not import any other of
the package.

    class                 code
    StackerError             1
    +-- UsageError           2
    +-- NotFoundError        3
    +-- AuthenticationError  4
    +-- IntegrityError       5
    +-- LayerError           6
    +-- UnsupportedError     7
    +-- LockedError          8
    +-- MountError           9
    |   +-- RefusedError
    +-- NetworkError        10
    +-- StartError

The first line of each docstring is the exit code's meaning in the documentation.
"""

from __future__ import annotations

import errno
import os
from typing import Final

NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""The errors of a full filesystem and of an exceeded quota."""


class StackerError(Exception):
    """Any other error, such as a full disk or an I/O error.

    This is the base class of all errors of this package.  An instance of the class itself is an
    error that none of its subclasses describes.

    :param message: one line, *what failed: which object: got X, want Y*.
    :param hint: one line that names the command or option to use next, or ``None``.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        # Worker processes pickle errors; the default of BaseException loses the keyword argument.
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(kind: type[StackerError], message: str, hint: str | None) -> StackerError:
    return kind(message, hint=hint)


def full_disk_hint(error: OSError) -> str | None:
    """Return the hint for an error of the kernel if it means that no space is left, else None."""
    if error.errno not in NO_SPACE:
        return None
    return "free some space, or name a store on another filesystem with --store"


def path_of(error: OSError) -> str:
    """Return the path of an error of the kernel; empty if the call had none, or a descriptor.

    Python stores the number of the descriptor as the file name.
    """
    name = error.filename
    return os.fsdecode(name) if isinstance(name, (str, bytes)) else ""


def json_fault(error: Exception) -> str:
    """Return the fault of a JSON file, as a phrase that follows *got* in a message.

    :param error: the error of json.loads, or of a read of a field.
    """
    match error:
        case KeyError():
            return f"no field {error}"
        case TypeError() | AttributeError():
            return "a field of the wrong type"
        case _:
            return f"malformed content ({error})"


def shell_word(path: object) -> str:
    """Return a path as one word of a shell command, for a hint."""
    import shlex  # only an error needs it

    return shlex.quote(str(path))


class UsageError(StackerError, ValueError):
    """An argument, an option or a configuration file is invalid.

    Raised before the operation changes anything.
    """

    exit_code = 2


class NotFoundError(StackerError, LookupError):
    """An image, layer, blob, tag or platform does not exist.

    Raised for the store, for a registry, and for a file that an option names.
    """

    exit_code = 3


class AuthenticationError(StackerError):
    """A registry requires credentials or rejects them.

    Raised after a response 401 or 403, and when a token server denies a token.
    """

    exit_code = 4


class IntegrityError(StackerError, ValueError):
    """Data does not match its digest, its size or its format.

    Raised for a blob or a document that was read completely but is not the expected one, and for
    a damaged record of the store.
    """

    exit_code = 5


class LayerError(StackerError, ValueError):
    """A layer is malformed, leaves its root directory, or exceeds a limit.

    Raised by the tar reader, while a layer is applied, and while layers are stacked.
    """

    exit_code = 6


class UnsupportedError(StackerError, NotImplementedError):
    """A format, version or feature is not supported.

    Raised for valid data that this version cannot read, and for a kernel feature that is missing.
    """

    exit_code = 7


class LockedError(StackerError):
    """An image, layer, directory or mount is in use.

    Raised instead of waiting when another process holds the lock.
    """

    exit_code = 8


class MountError(StackerError):
    """A mount or an unmount failed.

    Raised when no driver can mount, and when the kernel refuses.
    """

    exit_code = 9


class RefusedError(MountError):
    """A mount driver cannot make a mount on this machine; another driver may succeed."""


class StartError(StackerError):
    """A program of a container cannot be started.

    Raised with the exit code 127 if the program is missing, and with 126 if the kernel cannot
    execute it.
    """


class NetworkError(StackerError):
    """A registry or a proxy is unreachable, the transfer was interrupted, or `--timeout` expired.

    Raised after the retries, for connections, TLS handshakes, timeouts and responses 5xx.
    """

    exit_code = 10
