"""Fetch foreign layers: from the registry, or from the URLs in their descriptors.

A client and a descriptor come in; responses go out.  The servers at those URLs receive no
credentials, and are used only if the caller allows it.  The caller verifies the bytes.
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
    from stacker.registry.http.response import Response
    from stacker.registry.mirrors import Mirrors


class ForeignLayer:
    """Fetches a layer from its registry, else from the URLs in its descriptor.

    :param is_allowed: whether those URLs may be used.
    :param what: the layer's name for messages.
    """

    def __init__(
        self, client: Client | Mirrors, layer: Descriptor, *, is_allowed: bool, what: str
    ) -> None:
        self._client = client
        self._layer = layer
        self._is_allowed = is_allowed
        self._what = what
        self._current = -1  # the index of the URL in use; -1 is the registry

    def get(self, path: str, headers: Mapping[str, str]) -> Response:
        """Return a response with the layer; a server that failed before is skipped.

        :raises NotFoundError: no server that may be used has the layer.
        :raises NetworkError: the last URL cannot be reached, or must not be used.
        """
        while True:
            try:
                if self._current < 0:
                    return self._client.get(path, headers, self._what)
                return self._get_url(self._layer.urls[self._current], headers)
            except NotFoundError as error:
                if not self._is_allowed:
                    raise _with_hint(error, self._layer) from None
                self._skip(error)
            except NetworkError as error:
                if self._current < 0:
                    raise
                self._skip(error)

    def _skip(self, error: NotFoundError | NetworkError) -> None:
        if self._current + 1 == len(self._layer.urls):
            raise error
        self._current += 1

    def _get_url(self, url: str, headers: Mapping[str, str]) -> Response:
        origin = origin_of(url, self._what)
        is_local = is_loopback(origin_of(self._client.base, self._what).host)
        if is_loopback(origin.host) and not is_local:
            raise NetworkError(
                f"refused to fetch: {self._what}: got loopback host {quoted(origin.host)}, "
                "want a remote one"
            )
        if origin.scheme != "https" and not is_loopback(origin.host):
            got = quoted(f"{origin.scheme}://{origin.host}")
            raise NetworkError(f"refused to fetch: {self._what}: got {got}, want https")
        return self._client.get_foreign(url, headers, f"{self._what} at {origin.host}")


def _with_hint(error: NotFoundError, layer: Descriptor) -> NotFoundError:
    listed = ", ".join(map(quoted, layer.urls))
    return NotFoundError(
        error.message, hint=f"a foreign layer: --allow-foreign fetches it from {listed}"
    )
