"""What can go wrong, as types.

Every error a caller may want to tell apart is a class here, and each class owns the exit
code the command line ends with.  A message reads *what failed: which object: got X, want Y*;
a hint, where there is one, says what a person can do about it.

    StackerError              1   anything without a class of its own (a full disk, an I/O error)
    +-- UsageError            2   the caller's words are off
    +-- NotFoundError         3   no such image, blob, tag, platform
    +-- AuthenticationError   4   a registry refuses the credentials
    +-- IntegrityError        5   bytes are not what a digest, size or document says they are
    +-- LayerError            6   a layer is malformed, hostile or over a limit
    +-- UnsupportedError      7   a form this program does not read
    +-- LockedError           8   somebody else is using the object
    +-- MountError            9   the mount cannot be made or undone
    +-- NetworkError         10   a registry cannot be reached or breaks off
"""

from __future__ import annotations


class StackerError(Exception):
    """The root of every error this package raises on purpose.

    :param message: one line, *what failed: which object: got X, want Y*.
    :param hint: one line a person can act on, or ``None``.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross from worker processes to the conductor; BaseException's own
        # pickling would lose the keyword argument.
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(kind: type[StackerError], message: str, hint: str | None) -> StackerError:
    return kind(message, hint=hint)


class UsageError(StackerError, ValueError):
    """The caller asked for something that makes no sense."""

    exit_code = 2


class NotFoundError(StackerError, LookupError):
    """The named object does not exist."""

    exit_code = 3


class AuthenticationError(StackerError):
    """A registry refuses the credentials, or wants some."""

    exit_code = 4


class IntegrityError(StackerError, ValueError):
    """Bytes differ from what a digest, a size or another document claims."""

    exit_code = 5


class LayerError(StackerError, ValueError):
    """A layer is malformed, tries to leave its root, or exceeds a limit."""

    exit_code = 6


class UnsupportedError(StackerError, NotImplementedError):
    """A valid form that this program does not read."""

    exit_code = 7


class LockedError(StackerError):
    """The object is in use by somebody else."""

    exit_code = 8


class MountError(StackerError):
    """A mount cannot be made or undone."""

    exit_code = 9


class NetworkError(StackerError):
    """A registry cannot be reached, or broke off."""

    exit_code = 10
