"""A client of several addresses: the mirrors in order, and the registry itself last.

Requests as for a `Client` come in; the first successful response goes out.  The caller verifies the
digest, so it does not matter which address answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.errors import AuthenticationError, NetworkError, NotFoundError, StackerError
from stacker.registry.client import make_client

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stacker.registry.client import Client
    from stacker.registry.http.response import Response
    from stacker.registry.registries_conf import RegistryAddress
    from stacker.registry.settings import RegistryAccess

_SKIPPED = (NetworkError, NotFoundError, AuthenticationError)


class Mirrors:
    """Sends each request to `addresses` in turn, and skips unreachable ones from then on.

    :param what: the image's name for messages, independent of the address.
    """

    def __init__(
        self, addresses: Sequence[RegistryAddress], access: RegistryAccess, what: str
    ) -> None:
        self.access = access
        self.what = what
        self._addresses = tuple(addresses)
        self._clients: dict[int, Client] = {}
        self._first = 0
        self._has_answered = False

    def __eq__(self, other: object) -> bool:
        """Return whether both use the same addresses."""
        return isinstance(other, Mirrors) and self._addresses == other._addresses

    def __hash__(self) -> int:
        return hash(self._addresses)

    def get(self, path: str, headers: Mapping[str, str], what: str) -> Response:
        """Return the first successful response for `path` below the repository; see `Client.get`.

        :raises StackerError: the error of the last address; its hint lists the earlier errors.
        """
        errors: list[StackerError] = []
        for number in range(self._first, len(self._addresses)):
            try:
                client = self._client(number)
                where = what if client.what in what else f"{what} at {client.what}"
                response = client.get(path, headers, where)
            except _SKIPPED as error:
                errors.append(error)
            else:
                # A mirror that lacks this object may have the next one.
                if not self._has_answered or all(isinstance(e, NetworkError) for e in errors):
                    self._first = number
                self._has_answered = True
                return response
        raise _joined(errors)

    @property
    def base(self) -> str:
        """The URL of the registry that receives the next request first."""
        return self._client(self._first).base

    def get_foreign(self, url: str, headers: Mapping[str, str], what: str) -> Response:
        """Return the response for any URL, without credentials; see `Client.get_foreign`."""
        return self._client(self._first).get_foreign(url, headers, what)

    def next_mirror(self) -> bool:
        """Skip the current address from now on; return False if it is the last one."""
        if self._first + 1 >= len(self._addresses):
            return False
        self._first += 1
        return True

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            client.close()

    def _client(self, number: int) -> Client:
        if number not in self._clients:
            self._clients[number] = make_client(self._addresses[number], self.access)
        return self._clients[number]


def _joined(errors: Sequence[StackerError]) -> StackerError:
    *before, last = errors
    if not before:
        return last
    hints = [last.hint] if last.hint else []
    hints.append("earlier: " + "; ".join(error.message for error in before))
    return type(last)(last.message, hint="; ".join(hints))
