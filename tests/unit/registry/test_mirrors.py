"""Mirrors are tried in order, and objects named by digest may come from any of them."""

from __future__ import annotations

import json
import pickle
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stacker.errors import IntegrityError, NetworkError, NotFoundError, UsageError
from stacker.image import mediatype
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest
from stacker.registry.registries_conf import parse_registries_conf
from stacker.registry.settings import RegistryAccess, Timeouts
from stacker.source.open import open_source
from stacker.source.protocol import Source
from tests.support.registries import PASSWORD, USER, FakeRegistry, Handler, fake_registry

TIMEOUTS = Timeouts(connect=5, read=5, attempts=2, sleep=lambda _: None)
NAME = "registry.example/team/app:1.0"
UNREACHABLE = "127.0.0.1:1"


@pytest.fixture
def image(make_image: Any) -> Any:
    return make_image(b"one" * 100_000)


@pytest.fixture
def server(image: Any) -> Iterator[FakeRegistry]:
    """Yield a registry that serves the image."""
    with fake_registry() as server:
        fill(server, "real", image)
        yield server


@pytest.fixture
def mirror(image: Any) -> Iterator[FakeRegistry]:
    with fake_registry() as server:
        fill(server, "mirror/app", image)
        yield server


def fill(server: FakeRegistry, repository: str, image: Any) -> None:
    for name, data in image.blobs.items():
        server.content[f"/v2/{repository}/blobs/sha256:{name}"] = ("application/x", data)
    for name in ("1.0", str(Digest.of(image.manifest))):
        kind = (mediatype.OCI_MANIFEST, image.manifest)
        server.content[f"/v2/{repository}/manifests/{name}"] = kind


def opened(
    server: FakeRegistry,
    *mirrors: str,
    name: str = NAME,
    more: str = "",
    auth: Path | None = None,
    timeouts: Timeouts = TIMEOUTS,
) -> AbstractContextManager[Source]:
    conf = f'[[registry]]\nprefix = "registry.example/team/app"\nlocation = "{server.host}/real"\n'
    conf += "".join(f'[[registry.mirror]]\nlocation = "{m}"\n{more}\n' for m in mirrors)
    access = RegistryAccess(
        auth_files=(str(auth),) if auth else (),
        timeouts=timeouts,
        registries=parse_registries_conf([("conf", conf.encode())]),
    )
    return open_source(f"docker://{name}", spool=Path("/none"), access=access)


def read_everything(source: Source) -> list[bytes]:
    manifest = json.loads(source.document(source.root()))
    parts = []
    for entry in (manifest["config"], *manifest["layers"]):
        descriptor = Descriptor.from_json(entry, "entry")
        with source.open_blob(descriptor) as blob:
            parts.append(blob.read())
            descriptor.verify(parts[-1], "entry")
    return parts


def test_image_from_a_location_keeps_its_name(server: FakeRegistry) -> None:
    with opened(server) as source:
        read_everything(source)
        assert source.names == (NAME,)
    assert server.count("/v2/real/") == 3


def test_first_mirror_with_the_image_serves_all_of_it(
    server: FakeRegistry, mirror: FakeRegistry
) -> None:
    with opened(server, f"{UNREACHABLE}/x", f"{mirror.host}/mirror/app") as source:
        read_everything(source)
        assert source.names == (NAME,)
    assert not server.asked
    assert mirror.count("/v2/mirror/app/") == 3


@pytest.mark.parametrize("status", [401, 403, 404, 500, 503])
def test_unreachable_or_refusing_mirror_is_skipped(
    server: FakeRegistry, mirror: FakeRegistry, status: int
) -> None:
    mirror.quirk = lambda request: request.path != "/v2/" and request.answer(status)
    with opened(server, f"{mirror.host}/mirror/app") as source:
        read_everything(source)
    assert mirror.count("/blobs/") == 0
    assert server.count("/v2/real/") == 3


def test_mirror_that_lacks_one_blob_serves_the_next(
    server: FakeRegistry, mirror: FakeRegistry, image: Any
) -> None:
    config = f"/v2/mirror/app/blobs/{Digest.of(image.config)}"
    del mirror.content[config]
    with opened(server, f"{mirror.host}/mirror/app") as source:
        read_everything(source)
    assert server.count("/v2/real/") == 1
    assert mirror.count("/blobs/") == 2


def test_tag_is_resolved_once(server: FakeRegistry, mirror: FakeRegistry) -> None:
    with opened(
        server, f"{mirror.host}/mirror/app", timeouts=replace(TIMEOUTS, sleep=print)
    ) as source:
        mirror.quirk = lambda request: request.answer(404)
        read_everything(source)
        # A pickled copy starts with the same mirror.
        copy = pickle.loads(pickle.dumps(source))
        read_everything(copy)
        assert copy == source
        copy.client.close()
    assert server.count("/manifests/") == 0
    assert server.count("/blobs/") == 4


def dropping(at: int, data: bytes) -> Callable[[Handler], bool]:
    def quirk(request: Handler) -> bool:
        if "blobs" not in request.path or len(request.registry.content[request.path][1]) < 9999:
            return False
        if request.headers.get("Range"):
            return request.answer(500)
        return request.broken(data, at)

    return quirk


def test_blob_resumes_at_the_next_mirror_after_the_last_attempt(
    server: FakeRegistry, mirror: FakeRegistry, image: Any
) -> None:
    (layer,) = image.layers
    mirror.quirk = dropping(100_000, layer)
    with opened(server, f"{mirror.host}/mirror/app") as source:
        read_everything(source)
    asked = [a.headers.get("range") for a in server.asked if "blobs" in a.path]
    assert asked == [f"bytes=100000-{len(layer) - 1}"]


def test_mirror_that_keeps_failing_is_skipped(
    server: FakeRegistry, mirror: FakeRegistry, image: Any
) -> None:
    (layer,) = image.layers

    mirror.quirk = lambda request: (
        "blobs" in request.path
        and mirror.content[request.path][1] == layer
        and request.broken(layer, 0)
    )
    with opened(server, f"{mirror.host}/mirror/app") as source:
        read_everything(source)
    assert server.count("/blobs/") == 1


def test_interrupted_manifest_comes_from_the_next_mirror(
    server: FakeRegistry, mirror: FakeRegistry, image: Any
) -> None:
    mirror.quirk = lambda request: (
        "manifests" in request.path and request.broken(image.manifest, 10)
    )
    with opened(server, f"{mirror.host}/mirror/app") as source:
        read_everything(source)
    assert (mirror.count("/manifests/"), server.count("/manifests/")) == (2, 1)


def test_wrong_bytes_from_a_mirror_are_an_integrity_error(
    server: FakeRegistry, mirror: FakeRegistry, image: Any
) -> None:
    config = f"/v2/mirror/app/blobs/{Digest.of(image.config)}"
    mirror.content[config] = ("x", bytes(len(image.config)))
    with (
        opened(server, f"{mirror.host}/mirror/app") as source,
        pytest.raises(IntegrityError, match="wrong digest"),
    ):
        read_everything(source)


def test_error_of_the_last_address_hints_at_the_earlier_ones(
    server: FakeRegistry, mirror: FakeRegistry
) -> None:
    name = "registry.example/team/app:2.0"
    with (
        pytest.raises(NotFoundError) as caught,
        opened(server, f"{UNREACHABLE}/x", f"{mirror.host}/mirror/app", name=name),
    ):
        pytest.fail("it was opened")
    assert caught.value.message.startswith(f"not found: {name} at {server.host}/real: got status")
    assert f"{mirror.host}/mirror/app" in (caught.value.hint or "")
    assert UNREACHABLE in (caught.value.hint or "")
    with pytest.raises(NetworkError), opened(FakeRegistry(host=UNREACHABLE), f"{UNREACHABLE}/x"):
        pytest.fail("it was opened")


def test_digest_only_mirror_gets_no_request_by_tag(
    server: FakeRegistry, mirror: FakeRegistry, image: Any
) -> None:
    only = 'pull-from-mirror = "digest-only"'
    with opened(server, f"{mirror.host}/mirror/app", more=only) as source:
        read_everything(source)
    assert not mirror.asked
    by_digest = f"{NAME}@{image.descriptor.digest}"
    with opened(server, f"{mirror.host}/mirror/app", more=only, name=by_digest) as source:
        read_everything(source)
    assert mirror.count("/v2/mirror/app/") == 3


def test_each_mirror_gets_its_own_password(
    server: FakeRegistry, mirror: FakeRegistry, tmp_path: Path
) -> None:
    def demanding(request: Handler) -> bool:
        if request.path == "/v2/" or request.headers.get("Authorization"):
            return False
        return request.answer(401, b"", {"WWW-Authenticate": 'Basic realm="tests"'})

    server.quirk = mirror.quirk = demanding
    auth = {"auth": b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
    path = tmp_path / "auth.json"
    path.write_text(json.dumps({"auths": {server.host: auth}}))
    with opened(server, f"{mirror.host}/mirror/app", auth=path) as source:
        read_everything(source)
    assert not any("authorization" in asked.headers for asked in mirror.asked)


def test_short_name_is_expanded_before_the_request(server: FakeRegistry) -> None:
    conf = f'[aliases]\napp = "{server.host}/real"'
    access = RegistryAccess(
        timeouts=TIMEOUTS, registries=parse_registries_conf([("conf", conf.encode())])
    )
    with open_source("docker://app:1.0", spool=Path("/none"), access=access) as source:
        assert source.names == (f"{server.host}/real:1.0",)
    with pytest.raises(UsageError), open_source("docker://Other", spool=Path("/"), access=access):
        pytest.fail("it was opened")
