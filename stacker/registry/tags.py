"""The tags of a repository, page by page.

In comes a client, out come tags in the registry's order.  What they name is not known here.
Sources: OCI distribution-spec 1.1, "Listing Tags"; RFC 8288 for the Link header.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from stacker.errors import NetworkError
from stacker.image.document import DOCUMENT_LIMIT, parse_object, strings
from stacker.registry.client import refusal
from stacker.registry.http.origin import origin_of
from stacker.registry.http.response import BrokenOffError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stacker.registry.client import Client
    from stacker.registry.http.response import Answer

PAGE = 1000
"""Tags that are asked for at once; a registry may give fewer."""
_MOST_PAGES = 10_000
_NEXT = re.compile(r'<([^>]*)>[^,]*;\s*rel="?next"?', re.IGNORECASE)


def list_tags(client: Client, *, page: int = PAGE) -> Iterator[str]:
    """Give every tag of the client's repository, each once.

    :param page: how many to ask for at once.
    :raises NotFoundError: there is no such repository.
    :raises AuthenticationError: the registry wants credentials, or better ones.
    :raises NetworkError: it cannot be reached, or sends us astray or in circles.
    :raises IntegrityError: an answer is malformed.
    """
    what = f"tags of {client.what}"
    url = client.url(f"tags/list?n={page}")
    asked: set[str] = set()
    seen: set[str] = set()
    while url:
        asked.add(url)
        answer = client.ask("GET", url, {"Accept": "application/json"})
        if answer.status != 200:
            raise refusal(answer, what)
        for tag in _tags(answer, what):
            if tag not in seen:
                seen.add(tag)
                yield tag
        url = _next(answer, url, what)
        if url in asked or len(asked) > _MOST_PAGES:
            raise NetworkError(f"pages in circles: {what}: got the same page twice, want the next")


def _tags(answer: Answer, what: str) -> tuple[str, ...]:
    try:
        raw = answer.whole(DOCUMENT_LIMIT)
    except BrokenOffError as error:
        raise NetworkError(error.message) from error
    # Where a repository has no tag, some registries say null.
    return strings(parse_object(raw, what), "tags", what)


def _next(answer: Answer, url: str, what: str) -> str:
    """Return where the next page is, empty after the last."""
    for value in answer.headers("Link"):
        if found := _NEXT.search(value):
            following = _joined(url, found[1])
            if origin_of(following, what) != origin_of(url, what):
                raise NetworkError(f"refused to follow: {what}: got a page on another host")
            return following
    return ""


def _joined(url: str, target: str) -> str:
    try:
        return urljoin(url, target)
    except ValueError:
        return ""
