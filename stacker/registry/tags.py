"""List the tags of a repository, page by page.

A location or a client comes in; tags go out in the registry's order.  This module does not resolve
tags.
Sources: OCI distribution-spec 1.1, "Listing Tags"; RFC 8288 for the Link header.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from stacker.errors import NetworkError, UsageError
from stacker.image.document import DOCUMENT_LIMIT, parse_object, quoted, strings
from stacker.image.location import REGISTRY_TRANSPORT, is_in_registry
from stacker.image.reference import Reference
from stacker.registry.client import connected_client, status_error
from stacker.registry.http.origin import origin_of
from stacker.registry.http.response import TransferInterruptedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stacker.registry.client import Client
    from stacker.registry.http.response import Response
    from stacker.registry.settings import RegistryAccess

PAGE = 1000
"""Tags per request; a registry may return fewer."""
_MOST_PAGES = 10_000
_NEXT = re.compile(r'<([^>]*)>[^,]*;\s*rel="?next"?', re.IGNORECASE)


def list_tags(client: Client, *, page: int = PAGE) -> Iterator[str]:
    """Yield every tag of the client's repository once.

    :param page: tags per request.
    :raises NotFoundError: no such repository.
    :raises AuthenticationError: the registry refuses the request or the credentials.
    :raises NetworkError: the registry cannot be reached, or its pages lead elsewhere or loop.
    :raises IntegrityError: a response is malformed.
    """
    what = f"tags of {client.what}"
    url = client.url(f"tags/list?n={page}")
    requested: set[str] = set()
    seen: set[str] = set()
    while url:
        requested.add(url)
        response = client.request("GET", url, {"Accept": "application/json"})
        if response.status != 200:
            raise status_error(response, what)
        for tag in _tags(response, what):
            if tag not in seen:
                seen.add(tag)
                yield tag
        url = _next_page(response, url, what)
        if url in requested or len(requested) > _MOST_PAGES:
            raise NetworkError(
                f"page loop: {what}: got the same page twice, or more than {_MOST_PAGES} pages, "
                "want a last page"
            )


def tags_of(location: str, access: RegistryAccess) -> tuple[Reference, list[str]]:
    """Return the repository at a location, and all its tags; errors as for `list_tags`.

    :param location: ``docker://[HOST[:PORT]/]REPO``.
    :raises UsageError: it is not the location of a repository.
    """
    if not is_in_registry(location):
        raise UsageError(
            f"malformed repository: got {quoted(location)}, want [docker://HOST[:PORT]/]REPO",
            hint="for example docker://registry.example/team/app",
        )
    text = access.registries.expand_short_name(location.removeprefix(REGISTRY_TRANSPORT))
    reference = Reference.parse(text)
    with connected_client(access.registries.primary(reference), access) as client:
        return reference, list(list_tags(client))


def _tags(response: Response, what: str) -> tuple[str, ...]:
    try:
        raw = response.read_all(DOCUMENT_LIMIT)
    except TransferInterruptedError as error:
        raise NetworkError(error.message) from error
    # Some registries return null for a repository without tags.
    return strings(parse_object(raw, what), "tags", what)


def _next_page(response: Response, url: str, what: str) -> str:
    """Return the URL of the next page, empty after the last one."""
    for value in response.headers("Link"):
        if found := _NEXT.search(value):
            following = _joined(url, found[1])
            if origin_of(following, what) != origin_of(url, what):
                raise NetworkError(
                    f"refused to follow: {what}: got a page on another host, want the same"
                )
            return following
    return ""


def _joined(url: str, target: str) -> str:
    try:
        return urljoin(url, target)
    except ValueError:
        return ""
