"""Layers that a registry does not have and that lie elsewhere, as their descriptors say.

In comes a client and a descriptor, out come answers: the registry's, or those of the addresses in
`urls` where somebody allowed it.  Nobody there hears credentials.  What the bytes are worth, their
digest says to whoever reads them.
Source: image-spec descriptor.md, "urls"; layer.md, "Non-Distributable Layers".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.errors import NetworkError, NotFoundError
from stacker.image.document import quoted
from stacker.registry.http.origin import is_loopback, origin_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stacker.image.descriptor import Descriptor
    from stacker.registry.client import Client
    from stacker.registry.http.response import Answer
    from stacker.registry.mirrors import Mirrors


class ForeignLayer:
    """Finds a layer at its registry, or else where its descriptor says.

    :param is_allowed: whether anybody but the registry may be asked.
    :param what: the layer's name for messages.
    """

    def __init__(
        self, client: Client | Mirrors, layer: Descriptor, *, is_allowed: bool, what: str
    ) -> None:
        self._client = client
        self._layer = layer
        self._is_allowed = is_allowed
        self._what = what
        self._at = -1  # the number of the address that had it last; -1 is the registry

    def get(self, path: str, headers: Mapping[str, str]) -> Answer:
        """Ask for the layer; who has been passed over is not asked again.

        :raises NotFoundError: nobody who may be asked has it.
        :raises NetworkError: the last of the addresses cannot be asked, or not safely.
        """
        while True:
            try:
                if self._at < 0:
                    return self._client.get(path, headers, self._what)
                return self._elsewhere(self._layer.urls[self._at], headers)
            except NotFoundError as error:
                if not self._is_allowed:
                    raise _with_flag(error, self._layer) from None
                self._pass_over(error)
            except NetworkError as error:
                if self._at < 0:
                    raise
                self._pass_over(error)

    def _pass_over(self, error: NotFoundError | NetworkError) -> None:
        if self._at + 1 == len(self._layer.urls):
            raise error
        self._at += 1

    def _elsewhere(self, url: str, headers: Mapping[str, str]) -> Answer:
        origin = origin_of(url, self._what)
        home = is_loopback(origin_of(self._client.base, self._what).host)
        if is_loopback(origin.host) and not home:
            raise NetworkError(
                f"refused to ask: {self._what}: got {quoted(origin.host)}, want another machine"
            )
        if origin.scheme != "https" and not is_loopback(origin.host):
            got = quoted(f"{origin.scheme}://{origin.host}")
            raise NetworkError(f"refused to ask: {self._what}: got {got}, want https")
        return self._client.elsewhere(url, headers, f"{self._what} at {origin.host}")


def _with_flag(error: NotFoundError, layer: Descriptor) -> NotFoundError:
    listed = ", ".join(map(quoted, layer.urls))
    return NotFoundError(
        error.message, hint=f"a foreign layer: --allow-foreign has it fetched from {listed}"
    )
