"""A client of several addresses at once: mirrors in order, and at last where the image really is.

In come the questions a `Client` takes, out goes the answer of the first place that has one.
What was asked for by digest is checked by whoever asks, so it does not matter who answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.errors import AuthenticationError, NetworkError, NotFoundError, StackerError
from stacker.registry.client import client_at

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stacker.registry.client import Client
    from stacker.registry.http.response import Answer
    from stacker.registry.registries_conf import RegistryAddress
    from stacker.registry.settings import RegistryAccess

_ELSEWHERE = (NetworkError, NotFoundError, AuthenticationError)


class Mirrors:
    """Asks `addresses` in turn; who could not be reached is not asked again.

    :param what: the image's name for messages, whichever place it comes from.
    """

    def __init__(
        self, addresses: Sequence[RegistryAddress], access: RegistryAccess, what: str
    ) -> None:
        self.access = access
        self.what = what
        self._places = tuple(addresses)
        self._clients: dict[int, Client] = {}
        self._at = 0
        self._has_met = False

    def __eq__(self, other: object) -> bool:
        """Say whether both ask the same addresses."""
        return isinstance(other, Mirrors) and self._places == other._places

    def __hash__(self) -> int:
        return hash(self._places)

    def get(self, path: str, headers: Mapping[str, str], what: str) -> Answer:
        """Ask for what is at `path` below the repository; see `Client.get`.

        :raises StackerError: what the last place says; the hint tells of those before it.
        """
        errors: list[StackerError] = []
        for number in range(self._at, len(self._places)):
            try:
                client = self._client(number)
                where = what if client.what in what else f"{what} at {client.what}"
                answer = client.get(path, headers, where)
            except _ELSEWHERE as error:
                errors.append(error)
            else:
                # A mirror that lacks one blob may have the next.
                if not self._has_met or all(isinstance(e, NetworkError) for e in errors):
                    self._at = number
                self._has_met = True
                return answer
        raise _joint(errors)

    @property
    def base(self) -> str:
        """The URL of the registry that is asked first."""
        return self._client(self._at).base

    def elsewhere(self, url: str, headers: Mapping[str, str], what: str) -> Answer:
        """Ask for what is at any URL, as a stranger; see `Client.elsewhere`."""
        return self._client(self._at).elsewhere(url, headers, what)

    def move_on(self) -> bool:
        """Ask another place from now on; return whether there is one."""
        if self._at + 1 >= len(self._places):
            return False
        self._at += 1
        return True

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            client.close()

    def _client(self, number: int) -> Client:
        if number not in self._clients:
            self._clients[number] = client_at(self._places[number], self.access)
        return self._clients[number]


def _joint(errors: Sequence[StackerError]) -> StackerError:
    *before, last = errors
    if not before:
        return last
    hints = [last.hint] if last.hint else []
    hints.append("before that: " + "; ".join(error.message for error in before))
    return type(last)(last.message, hint="; ".join(hints))
