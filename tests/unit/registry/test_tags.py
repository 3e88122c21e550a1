"""Lists of tags, in one page and in several."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest

from stacker.errors import IntegrityError, NetworkError, NotFoundError
from stacker.image.reference import Reference
from stacker.registry.client import connected_client
from stacker.registry.registries_conf import RegistryAddress
from stacker.registry.settings import RegistryAccess, Timeouts
from stacker.registry.tags import list_tags
from tests.support.registries import FakeRegistry, Handler, fake_registry

TAGS = [f"v{number:02}" for number in range(25)]


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    with fake_registry() as server:
        yield server


def tags(server: FakeRegistry, page: int = 10) -> list[str]:
    access = RegistryAccess(timeouts=Timeouts(connect=5, read=5, sleep=lambda _: None))
    with connected_client(RegistryAddress(Reference.parse(f"{server.host}/app")), access) as client:
        return list(list_tags(client, page=page))


def paged(request: Handler, form: str = '<{}>; rel="next"') -> bool:
    """Respond as distribution-spec demands."""
    if "/tags/list" not in request.path:
        return False
    query = parse_qs(urlsplit(request.path).query)
    count, last = int(query["n"][0]), query.get("last", [""])[0]
    following = [tag for tag in TAGS if tag > last]
    page = following[:count]
    body = json.dumps({"name": "app", "tags": page}).encode()
    more = f"/v2/app/tags/list?n={count}&last={page[-1]}"
    link = {"Link": form.format(more)} if len(following) > count else {}
    return request.answer(200, body, link)


@pytest.mark.parametrize("form", ['<{}>; rel="next"', "<{}>;rel=next", '<{}>; x="1"; rel="NEXT"'])
def test_all_pages_are_read(server: FakeRegistry, form: str) -> None:
    server.quirk = lambda request: paged(request, form)
    assert tags(server) == TAGS
    assert server.count("last=v09") == server.count("last=v19") == 1
    assert server.count("/tags/list") == 3


def test_next_page_may_be_an_absolute_url(server: FakeRegistry) -> None:
    server.quirk = lambda request: paged(request, f'<http://{server.host}{{}}>; rel="next"')
    assert tags(server) == TAGS


@pytest.mark.parametrize(("body", "want"), [('{"tags": null}', []), ('{"tags": ["a"]}', ["a"])])
def test_tag_list_may_be_empty_or_null(server: FakeRegistry, body: str, want: list[str]) -> None:
    server.content["/v2/app/tags/list?n=10"] = ("application/json", body.encode())
    assert tags(server) == want


@pytest.mark.parametrize("place", ["http://registry.example/next", "file:///etc/passwd"])
def test_page_on_another_host_is_refused(server: FakeRegistry, place: str) -> None:
    server.quirk = lambda request: paged(request, f'<{place}>; rel="next"')
    with pytest.raises(NetworkError):
        tags(server)


def test_page_loop_is_an_error(server: FakeRegistry) -> None:
    server.quirk = lambda request: paged(request, '</v2/app/tags/list?n=10>; rel="next"')
    with pytest.raises(NetworkError, match="page loop"):
        tags(server)


def test_missing_repository_is_not_found(server: FakeRegistry) -> None:
    with pytest.raises(NotFoundError, match="no such repository"):
        tags(server)


def test_malformed_configuration_is_refused(server: FakeRegistry) -> None:
    server.content["/v2/app/tags/list?n=10"] = ("application/json", b'{"tags": [1]}')
    with pytest.raises(IntegrityError):
        tags(server)
