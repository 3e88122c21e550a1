"""Pull from a registry with faults: stacker retries, or fails with one line."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import Stacker
from tests.support.registries import (
    FakeRegistry,
    Handler,
    fake_registry,
)
from tests.support.registry_images import CREDENTIALS, check_image


def large_layer(request: Handler) -> bytes:
    """Return the large layer if the request is for it, else no bytes."""
    data = request.registry.content.get(request.path, ("", b""))[1]
    return data if len(data) > 1_000_000 and not request.headers.get("Range") else b""


def dropped(request: Handler) -> bool:
    data = large_layer(request)
    return bool(data) and request.broken(data, 700_000)


def without_ranges(request: Handler) -> bool:
    if request.headers.get("Range"):
        return request.answer(200, request.registry.content[request.path][1])
    return dropped(request)


def busy(request: Handler) -> bool:
    return len(request.registry.asked) % 2 == 0 and request.answer(503, b"", {"Retry-After": "0"})


def limited(request: Handler) -> bool:
    return len(request.registry.asked) % 2 == 0 and request.answer(429, b"", {"Retry-After": "0"})


def cut_short(request: Handler) -> bool:
    """Respond with a shorter range than requested."""
    data = request.registry.content.get(request.path, ("", b""))[1]
    span = request.wanted(len(data))
    if span is None:
        return dropped(request)
    end = min(span[0] + 300_000, span[1])
    return request.part(span[0], end, data[span[0] : end], len(data))


def without_length(request: Handler) -> bool:
    """Omit the Content-Length; close the connection after at most 700,000 bytes of the blob."""
    if not (data := large_layer(request)):
        return False
    request.send_response(200)
    request.end_headers()
    request.wfile.write(data[:700_000])
    request.close_connection = True
    return True


@pytest.mark.parametrize(
    "quirk", [dropped, without_ranges, busy, limited, cut_short, without_length]
)
def test_pull_recovers_from_a_server_fault(
    stacker: Stacker,
    server: FakeRegistry,
    layout: images.Layout,
    tmp_path: Path,
    quirk: Callable[[Handler], bool],
) -> None:
    server.quirk = quirk
    assert stacker("pull", f"docker://{server.host}/app:1.0").last == layout.image.config
    check_image(stacker, layout.image.config, tmp_path)
    stacker.assert_clean(images=1, layers=2)


def test_blob_host_after_a_redirect_gets_no_password(
    stacker: Stacker, server: FakeRegistry, layout: images.Layout, tmp_path: Path
) -> None:
    wanted = "Basic " + base64.b64encode(CREDENTIALS.encode()).decode()
    auth = {"auth": wanted.removeprefix("Basic ")}
    (tmp_path / "auth.json").write_text(json.dumps({"auths": {server.host: auth}}))
    with fake_registry() as other:
        other.content = dict(server.content)
        other.quirk = dropped

        def quirk(request: Handler) -> bool:
            if request.headers.get("Authorization") != wanted:
                return always_401(request)
            there = {"Location": f"http://{other.host}{request.path}"}
            return "/blobs/" in request.path and request.answer(307, b"", there)

        server.quirk = quirk
        place = f"docker://{server.host}/app:1.0"
        words = ("--authfile", tmp_path / "auth.json")
        assert stacker("pull", place, *words).last == layout.image.config
        assert other.count("/blobs/") == 4  # the config, two layers, and the rest of one
        assert not any("authorization" in asked.headers for asked in other.asked)
    check_image(stacker, layout.image.config, tmp_path)


def wrong_digest(request: Handler) -> bool:
    data = large_layer(request)
    return bool(data) and request.answer(200, data[:-1] + bytes([data[-1] ^ 1]))


def wrong_length(request: Handler) -> bool:
    data = large_layer(request)
    return bool(data) and request.answer(200, data + b"x")


def always_401(request: Handler) -> bool:
    return request.answer(401, b"", {"WWW-Authenticate": 'Basic realm="tests"'})


def gone(request: Handler) -> bool:
    return bool(large_layer(request)) and request.answer(404)


def circles(request: Handler) -> bool:
    return bool(large_layer(request)) and request.answer(302, b"", {"Location": request.path})


def hanging_up(request: Handler) -> bool:
    data = request.registry.content.get(request.path, ("", b""))[1]
    return len(data) > 1_000_000 and request.broken(data, 1000)


def patient(request: Handler) -> bool:
    return request.path != "/v2/" and request.answer(429, b"", {"Retry-After": "3600"})


def huge(request: Handler) -> bool:
    return "manifests" in request.path and request.answer(200, b" " * (5 << 20))


@pytest.mark.parametrize(
    ("quirk", "code"),
    [
        (wrong_digest, 5),
        (wrong_length, 5),
        (always_401, 4),
        (gone, 3),
        (circles, 10),
        (hanging_up, 10),
        (patient, 10),
        (huge, 5),
    ],
)
def test_failed_pull_is_one_line_and_a_later_pull_completes(
    stacker: Stacker,
    server: FakeRegistry,
    layout: images.Layout,
    quirk: Callable[[Handler], bool],
    code: int,
) -> None:
    server.quirk = quirk
    place = f"docker://{server.host}/app:1.0"
    assert f"{server.host}/app" in stacker.refused(code, "pull", place) or quirk is wrong_digest
    stacker.assert_clean()
    server.quirk = lambda _: False
    assert stacker("pull", place).last == layout.image.config
    stacker.assert_clean(images=1, layers=2)
