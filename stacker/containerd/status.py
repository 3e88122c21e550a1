"""The status codes of calls, and the error that carries one to the client.

The names are those of gRPC, and the rules for each code are those of containerd's package errdefs.
"""

from __future__ import annotations

from enum import Enum

from stacker.errors import StackerError


class Code(Enum):
    """A status code of gRPC."""

    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class StatusError(StackerError):
    """A call fails with a status code that containerd acts on.

    :param code: the code.
    :param text: the message for the client.
    """

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        return (StatusError, (self.code, self.message))
