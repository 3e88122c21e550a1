"""Pushing blobs and documents into a repository, despite interruptions."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest

from stacker.destination.registry import Repository, open_repository
from stacker.errors import AuthenticationError, IntegrityError, NetworkError
from stacker.events import Transfer
from stacker.image import mediatype
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest
from stacker.image.reference import Reference
from stacker.registry.settings import RegistryAccess, Timeouts
from tests.support.registries import FakeRegistry, Handler, fake_registry

DATA = os.urandom(10_000)
BLOB = Descriptor("application/octet-stream", Digest.of(DATA), len(DATA))
CHUNK_BYTES = 3_000
WAITED: list[float] = []
TIMEOUTS = Timeouts(connect=5, read=5, sleep=WAITED.append)


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    WAITED.clear()
    with fake_registry() as server:
        yield server


@contextmanager
def repository(server: FakeRegistry, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Repository]:
    reference = Reference.parse(f"{server.host}/app:1.0")
    with open_repository(reference, RegistryAccess(timeouts=TIMEOUTS)) as opened:
        yield replace(opened, chunk_bytes=chunk_bytes)


def sent(
    server: FakeRegistry,
    *,
    data: bytes = DATA,
    mount_from: Sequence[str] = (),
    chunk_bytes: int = CHUNK_BYTES,
) -> list[int]:
    """Push the blob, and return the reported progress."""
    reports: list[int] = []
    with repository(server, chunk_bytes) as place:
        how = place.put_blob(
            BLOB, lambda: io.BytesIO(data), mount_from=mount_from, report=reports.append
        )
    assert how is Transfer.SENT
    assert server.content[f"/v2/app/blobs/{BLOB.digest}"][1] == DATA
    return reports


def methods(server: FakeRegistry) -> list[str]:
    return [asked.method for asked in server.asked if asked.path != "/v2/"]


def test_a_small_blob_goes_in_one_request(server: FakeRegistry) -> None:
    assert sent(server, chunk_bytes=len(DATA)) == [len(DATA)]
    assert methods(server) == ["HEAD", "POST", "PUT"]


def test_large_blob_goes_in_chunks_with_ranges(server: FakeRegistry) -> None:
    assert sent(server) == [3_000, 6_000, 9_000, 10_000, 10_000]
    assert methods(server) == ["HEAD", "POST", *["PATCH"] * 4, "PUT"]
    ranges = [a.headers["content-range"] for a in server.asked if a.method == "PATCH"]
    assert ranges == ["0-2999", "3000-5999", "6000-8999", "9000-9999"]


def test_existing_blob_is_not_sent(server: FakeRegistry) -> None:
    server.content[f"/v2/app/blobs/{BLOB.digest}"] = ("", DATA)
    with repository(server) as place:
        how = place.put_blob(BLOB, lambda: pytest.fail("opened"), report=lambda _: None)
    assert how is Transfer.PRESENT
    assert methods(server) == ["HEAD"]


def test_every_chunk_goes_to_the_latest_location(server: FakeRegistry) -> None:
    count = 0

    def wandering(request: Handler) -> bool:
        """Move the upload to another URL with each response, with a query."""
        nonlocal count
        if "/uploads/" not in request.path or request.command == "PUT":
            return False
        if request.command == "PATCH":
            assert f"state={count}" in request.path
            place = request.path.partition("?")[0]
            request.registry.uploads[place] += request.asked.body
        else:
            place = "/v2/app/blobs/uploads/0"
            request.registry.uploads[place] = b""
        count += 1
        return request.answer(202, b"", {"Location": f"{place}?state={count}"})

    server.quirk = wandering
    sent(server)
    assert server.asked[-1].path.endswith(f"?state=5&digest={BLOB.digest}")


def test_minimum_chunk_length_is_obeyed(server: FakeRegistry) -> None:
    def begun(request: Handler) -> bool:
        if request.command != "POST":
            return False
        request.registry.uploads["/v2/app/blobs/uploads/0"] = b""
        headers = {"Location": "/v2/app/blobs/uploads/0", "OCI-Chunk-Min-Length": "7000"}
        return request.answer(202, b"", headers)

    server.quirk = begun
    assert sent(server) == [7_000, 10_000, 10_000]


def test_upload_on_another_host_gets_no_credentials(server: FakeRegistry) -> None:
    with fake_registry() as other:
        other.uploads["/there"] = b""
        path = "/v2/app/blobs/uploads/there"
        other.uploads[path] = b""
        place = {"Location": f"http://{other.host}{path}"}

        def quirk(request: Handler) -> bool:
            if request.headers.get("Authorization") is None and request.path != "/v2/":
                challenge = {"WWW-Authenticate": f'Bearer realm="http://{server.host}/token"'}
                if request.path.startswith("/token"):
                    return request.answer(200, b'{"token": "t"}')
                return request.answer(401, b"", challenge)
            return request.command == "POST" and request.answer(202, b"", place)

        server.quirk = quirk
        with repository(server) as target:
            target.put_blob(BLOB, lambda: io.BytesIO(DATA), report=lambda _: None)
        assert other.content[f"/v2/app/blobs/{BLOB.digest}"][1] == DATA
        assert not any("authorization" in asked.headers for asked in other.asked)
        scopes = [asked.path for asked in server.asked if asked.path.startswith("/token")]
        assert scopes == ["/token?scope=repository%3Aapp%3Apull%2Cpush"]


def test_token_that_expires_during_an_upload_is_replaced(server: FakeRegistry) -> None:
    uses, given = 3, 0

    def quirk(request: Handler) -> bool:
        nonlocal uses, given
        if request.path.startswith("/token"):
            given, uses = given + 1, 3
            return request.answer(200, b'{"token": "t%d"}' % given)
        if request.path == "/v2/":
            return False
        uses -= 1
        if uses >= 0 and request.headers.get("Authorization") == f"Bearer t{given}":
            return False
        challenge = {"WWW-Authenticate": f'Bearer realm="http://{server.host}/token"'}
        return request.answer(401, b"", challenge)

    server.quirk = quirk
    sent(server)
    assert given == 3


@pytest.mark.parametrize("status", [202, 403, 404, 401])
def test_refused_mount_becomes_an_upload(server: FakeRegistry, status: int) -> None:
    def quirk(request: Handler) -> bool:
        if "mount=" not in request.path or status == 202:
            return False
        return request.answer(status, b"", {"WWW-Authenticate": "Basic"})

    server.quirk = quirk
    sent(server, mount_from=[f"{server.host}/from"])
    posts = [asked.path for asked in server.asked if asked.method == "POST"]
    assert "from=from" in posts[0]
    assert len(posts) == (1 if status == 202 else 2)


def test_a_blob_of_another_repository_is_mounted(server: FakeRegistry) -> None:
    server.quirk = lambda request: request.command == "POST" and request.answer(201)
    with repository(server) as place:
        how = place.put_blob(BLOB, None, mount_from=[f"{server.host}/from"], report=lambda _: None)
    assert how is Transfer.MOUNTED
    assert methods(server) == ["HEAD", "POST"]


@pytest.mark.parametrize("mount_from", [["registry.example/from"], ["{}/app"], []])
def test_only_other_repositories_of_the_registry_are_mounted_from(
    server: FakeRegistry, mount_from: list[str]
) -> None:
    with repository(server) as place:
        how = place.put_blob(
            BLOB,
            None,
            mount_from=[n.format(server.host) for n in mount_from],
            report=lambda _: None,
        )
    assert how is None
    assert methods(server) == ["HEAD"]


def test_unneeded_upload_is_cancelled(server: FakeRegistry) -> None:
    with repository(server) as place:
        assert not place.put_blob(
            BLOB, None, mount_from=[f"{server.host}/x"], report=lambda _: None
        )
    assert methods(server) == ["HEAD", "POST", "DELETE"]
    assert not server.uploads


def lost(request: Handler) -> bool:
    """Drop all uploads; their numbers are not reused."""
    posts = sum(asked.method == "POST" for asked in request.registry.asked)
    request.registry.uploads = {f"lost {number}": b"" for number in range(posts)}
    return request.answer(404)


def nonsense(request: Handler) -> bool:
    """Claim to have more bytes than were sent."""
    return request.answer(202, b"", {"Location": request.path, "Range": "0-999999"})


@pytest.mark.parametrize("quirk", [lost, nonsense])
def test_lost_upload_starts_again(server: FakeRegistry, quirk: Callable[[Handler], bool]) -> None:
    done = False

    def once(request: Handler) -> bool:
        nonlocal done
        if done or request.headers.get("Content-Range", "0-").startswith("0-"):
            return False
        done = True
        return quirk(request)

    server.quirk = once
    sent(server)
    assert methods(server).count("POST") == 2
    assert len(WAITED) == 1


def test_upload_without_progress_ends(server: FakeRegistry) -> None:
    """The registry accepts the first chunk each time, which is no progress the second time."""
    server.quirk = lambda request: (
        not request.headers.get("Content-Range", "0-").startswith("0-") and lost(request)
    )
    with repository(server) as place, pytest.raises(NetworkError, match="gave up after 5"):
        place.put_blob(BLOB, lambda: io.BytesIO(DATA), report=lambda _: None)
    assert methods(server).count("POST") == 5


def test_registry_that_accepts_no_more_data_is_an_error(server: FakeRegistry) -> None:
    def stuck(request: Handler) -> bool:
        place = {"Location": request.path, "Range": "0-999"}
        return request.command == "PATCH" and request.answer(202, b"", place)

    server.quirk = stuck
    with repository(server) as place, pytest.raises(NetworkError, match="makes no progress"):
        place.put_blob(BLOB, lambda: io.BytesIO(DATA), report=lambda _: None)
    assert methods(server).count("PATCH") == 6


def busy_once(method: str, status: int) -> Callable[[Handler], bool]:
    """Return status and Retry-After of seven seconds for the first request of a method."""
    waiting = [method]

    def busy(request: Handler) -> bool:
        if request.command not in waiting:
            return False
        waiting.clear()
        return request.answer(status, b"", {"Retry-After": "7"})

    return busy


def test_retry_after_is_obeyed_during_an_upload(server: FakeRegistry) -> None:
    server.quirk = busy_once("PATCH", 429)
    sent(server)
    assert WAITED == [7]


@pytest.mark.parametrize("chunk_bytes", [CHUNK_BYTES, len(DATA)])
def test_busy_server_at_the_end_gets_no_chunk_twice(server: FakeRegistry, chunk_bytes: int) -> None:
    server.quirk = busy_once("PUT", 503)
    sent(server, chunk_bytes=chunk_bytes)
    assert WAITED == [7]
    # The registry may have part of a single-request upload, so that one does not resume.
    assert methods(server).count("POST") == (1 if chunk_bytes < len(DATA) else 2)


def test_wrong_bytes_do_not_finish_an_upload(server: FakeRegistry) -> None:
    wrong = DATA[:-1] + bytes([DATA[-1] ^ 1])
    for chunk_bytes in (CHUNK_BYTES, len(DATA)):
        with repository(server, chunk_bytes) as place, pytest.raises(IntegrityError):
            place.put_blob(BLOB, lambda: io.BytesIO(wrong), report=lambda _: None)
    assert "PUT" not in methods(server)
    assert sum(len(a.body) for a in server.asked if a.method == "PATCH") < len(DATA)


def test_refusal_explains_the_registry_s_error_code(server: FakeRegistry) -> None:
    body = b'{"errors": [{"code": "DENIED"}]}'
    server.quirk = lambda request: request.command == "POST" and request.answer(403, body)
    with repository(server) as place, pytest.raises(AuthenticationError, match="access denied"):
        place.put_blob(BLOB, lambda: io.BytesIO(DATA), report=lambda _: None)


def test_documents_are_pushed_by_digest_and_the_root_by_tag(server: FakeRegistry) -> None:
    documents = [
        Descriptor(mediatype.OCI_INDEX, Digest.of(word), len(word)) for word in (b"1", b"2")
    ]
    with repository(server) as place:
        assert not place.has_document(documents[0])
        place.put_document(documents[0], b"1")
        assert place.has_document(documents[0])
        place.finish(documents[1], b"2")
    paths = [asked.path for asked in server.asked if asked.method == "PUT"]
    assert paths == [f"/v2/app/manifests/{documents[0].digest}", "/v2/app/manifests/1.0"]
    assert server.content["/v2/app/manifests/1.0"] == (mediatype.OCI_INDEX, b"2")
