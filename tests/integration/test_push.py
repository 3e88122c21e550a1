"""Pushes and copies to real registries on loopback, to files, and to a server that misbehaves."""

from __future__ import annotations

import base64
import json
import os
import pty
import random
import shutil
import signal
import socket
import socketserver
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support import images
from tests.support.command import Stacker, at_home, conforming
from tests.support.registries import (
    PASSWORD,
    USER,
    FakeRegistry,
    Handler,
    Tokens,
    debian_registry,
    fake_registry,
    needs_registry,
    push,
    with_passwords,
)
from tests.support.tars import dir as folder
from tests.support.tars import file, symlink, tar, whiteout
from tests.support.unprivileged import UNPRIVILEGED, startable_python

LARGE = random.Random(1).randbytes(20_000_000)  # more than two pieces of an upload
LAYERS = [
    tar(folder("d/"), file("d/a", b"1"), file("large", LARGE), symlink("l", "d")),
    tar(file("b", b"2" * 100_000), whiteout("d/a")),
]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> images.Layout:
    return images.layout(tmp_path_factory.mktemp("layout") / "app", LAYERS)


@pytest.fixture
def stacker(tmp_path: Path) -> Stacker:
    """Return the command, in a home where nobody has logged in."""
    return at_home(tmp_path)


@pytest.fixture
def other(tmp_path: Path) -> Stacker:
    """Return the command with another store."""
    return at_home(tmp_path, "other")


def inspected(*words: str) -> dict[str, Any]:
    """Give what skopeo says of an image in a registry on loopback."""
    done = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", *words],
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def events(output: str) -> list[dict[str, Any]]:
    """Give a command's events, each held to the schema."""
    documents = [json.loads(line) for line in output.splitlines()]
    for document in documents:
        conforming(document)
    return documents


def config_of(stacker: Stacker, image: str) -> bytes:
    return images.blob_path(stacker.store, image).read_bytes()


@needs_registry
@pytest.mark.parametrize("keep", [True, False], ids=["blobs kept", "from skeletons"])
def test_what_is_pushed_is_pulled_again(
    stacker: Stacker, other: Stacker, registry: str, layout: images.Layout, keep: bool
) -> None:
    image = stacker("pull", layout.source, *(["--keep-blobs"] if keep else [])).last
    place = f"docker://{registry}/round/{keep}:1.0".lower()
    digest = stacker("push", image, place).last
    assert (digest == layout.image.manifest) is keep
    assert inspected(place)["Digest"] == digest
    assert other("pull", place).last == image
    assert config_of(stacker, image) == config_of(other, image)
    assert {p.name for p in stacker.layers()} == {p.name for p in other.layers()}
    stacker.assert_clean(images=1, layers=2)


@needs_registry
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_skopeo_reads_what_was_pushed(
    stacker: Stacker, registry: str, layout: images.Layout, tmp_path: Path, compression: str
) -> None:
    image = stacker("pull", layout.source).last
    place = f"docker://{registry}/skopeo/{compression}:1.0"
    digest = stacker("push", image, place, "--compression", compression).last
    again = stacker("push", image, f"oci:{tmp_path}/again", "--compression", compression).last
    assert again == digest  # equal layers, equal blobs: nothing in them tells the time
    raw = inspected("--raw", place)
    assert raw["config"]["digest"] == image
    assert {layer["mediaType"].rpartition("+")[2] for layer in raw["layers"]} == {compression}
    copy = ["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false"]
    subprocess.run([*copy, place, f"oci:{tmp_path}/back:1.0"], check=True, capture_output=True)
    (entry,) = json.loads((tmp_path / "back" / "index.json").read_bytes())["manifests"]
    assert entry["digest"] == digest


@needs_registry
def test_a_real_registry_that_is_cut_off_gets_the_blob_all_the_same(
    stacker: Stacker, registry: str, layout: images.Layout
) -> None:
    stacker("pull", layout.source, "--keep-blobs")
    with cutting(registry, after=11_000_000) as (host, cuts):
        place = f"docker://{host}/cut/app:1.0"
        assert stacker("push", "app:1.0", place, "--jobs", "1").last == layout.image.manifest
    assert cuts == [1]
    place = f"docker://{registry}/cut/app:1.0"
    assert stacker("copy", place, f"docker://{registry}/cut/other:1.0").last
    words = ["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", place]
    subprocess.run([*words, f"dir:{stacker.store}/../checked"], check=True, capture_output=True)


@contextmanager
def cutting(host: str, *, after: int) -> Iterator[tuple[str, list[int]]]:
    """Stand before a registry, and cut one connection when so many bytes went to it."""
    address, _, port = host.partition(":")
    cuts: list[int] = []
    sent = 0

    class Between(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((address, int(port))) as upstream:
                back = threading.Thread(target=pumped, args=(upstream, self.request))
                back.start()
                self.forward(upstream)
                upstream.shutdown(socket.SHUT_RDWR)
                back.join()

        def forward(self, upstream: socket.socket) -> None:
            nonlocal sent
            with suppress(OSError):
                while data := self.request.recv(1 << 16):
                    sent += len(data)
                    if not cuts and sent > after:
                        cuts.append(1)
                        return
                    upstream.sendall(data)

    def pumped(here: socket.socket, there: socket.socket) -> None:
        with suppress(OSError):
            while data := here.recv(1 << 16):
                there.sendall(data)
            there.shutdown(socket.SHUT_RDWR)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Between) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}", cuts
        finally:
            server.shutdown()
            thread.join()


@needs_registry
def test_an_image_in_dockers_form_becomes_oci_only_where_it_must(
    stacker: Stacker, registry: str, layout: images.Layout, tmp_path: Path
) -> None:
    push(layout.source, registry, "form/docker:1.0", "--format", "v2s2")
    source = f"docker://{registry}/form/docker:1.0"
    image = stacker("pull", source, "--keep-blobs").last
    assert stacker("push", image, f"oci:{tmp_path}/same").last == inspected(source)["Digest"]
    small = json.loads(inspected_raw(source))["layers"][1]["digest"]
    large = json.loads(inspected_raw(source))["layers"][0]["digest"]
    images.blob_path(stacker.store, large).unlink()
    stacker("push", image, f"oci:{tmp_path}/other", "--compression", "zstd")
    made = json.loads(inspected_raw(f"oci:{tmp_path}/other"))
    assert made["mediaType"] == images.MANIFEST
    assert (made["config"]["digest"], made["config"]["mediaType"]) == (image, images.CONFIG)
    kinds = [(layer["mediaType"], layer["digest"] == small) for layer in made["layers"]]
    assert kinds == [(f"{images.LAYER}+zstd", False), (f"{images.LAYER}+gzip", True)]
    assert stacker("pull", f"oci:{tmp_path}/other").last == image


def inspected_raw(place: str) -> str:
    return json.dumps(inspected("--raw", place))


def test_an_image_without_layers_is_pushed(stacker: Stacker, tmp_path: Path) -> None:
    empty = images.layout(tmp_path / "app", [])
    stacker("pull", empty.source)
    assert stacker("push", "app:1.0", f"oci:{tmp_path}/out").last == empty.image.manifest


def test_bars_are_drawn_on_a_terminal(
    stacker: Stacker, layout: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", layout.source)
    person, terminal = pty.openpty()
    done = subprocess.Popen(
        stacker.words("push", "app:1.0", f"oci:{tmp_path}/out"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=terminal,
        env=stacker.environment,
    )
    os.close(terminal)
    seen = b""
    with suppress(OSError):  # EIO when the other end is closed
        while data := os.read(person, 10_000):
            seen += data
    os.close(person)
    assert done.stdout is not None
    assert done.stdout.read().startswith(b"sha256:")
    done.stdout.close()
    assert done.wait() == 0
    assert b"packing 2 layers" in seen
    assert b"sending 3 blobs" in seen


@needs_registry
def test_nothing_is_sent_that_is_there(
    stacker: Stacker, registry: str, layout: images.Layout
) -> None:
    stacker("pull", layout.source, "--keep-blobs")
    first, second = (
        events(stacker("push", "app:1.0", f"docker://{registry}/twice:1.0", "--json").out)
        for _ in range(2)
    )
    assert first[-1]["item"]["blobs"] == {"sent": 3}
    assert second[-1]["item"]["blobs"] == {"present": 3}
    assert first[-1]["item"]["digest"] == layout.image.manifest
    kinds = {event["kind"] for event in first}
    assert kinds == {"layers-to-pack", "blobs-found", "blob-progress", "blob-arrived", "push"}


@needs_registry
def test_what_another_repository_has_is_mounted_and_keeps_its_digest(
    stacker: Stacker, registry: str, layout: images.Layout
) -> None:
    push(layout.source, registry, "from/here:1.0", "--preserve-digests")
    stacker("pull", f"docker://{registry}/from/here:1.0")
    place = f"docker://{registry}/to/there:1.0"
    pushed = stacker("push", f"{registry}/from/here:1.0", place, "--json")
    item = events(pushed.out)[-1]["item"]
    # Two layers were mounted to see whether they can be; the config is sent.
    assert item["original"] is True
    assert item["digest"] == layout.image.manifest
    assert item["blobs"] == {"present": 2, "mounted": 1}
    assert inspected(place)["Digest"] == layout.image.manifest


@needs_registry
@pytest.mark.parametrize("form", ["oci", "oci-archive"])
def test_files_are_read_by_skopeo_and_by_us(
    stacker: Stacker, other: Stacker, layout: images.Layout, tmp_path: Path, form: str
) -> None:
    stacker("pull", layout.source, "--keep-blobs")
    place = f"{form}:{tmp_path}/out:app:2.0"
    assert stacker("push", "app:1.0", place).last == layout.image.manifest
    assert inspected("--raw", place)["config"]["digest"] == layout.image.config
    assert other("pull", place).last == layout.image.config
    if form == "oci-archive":
        before = (tmp_path / "out").read_bytes()
        assert "file exists" in stacker.refused(2, "push", "app:1.0", place)
        assert (tmp_path / "out").read_bytes() == before


def test_a_layout_keeps_what_it_had(stacker: Stacker, tmp_path: Path) -> None:
    one = images.layout(tmp_path / "one", [tar(file("a", b"1"))], name="app:1.0")
    two = images.layout(tmp_path / "two", [tar(file("a", b"2"))], name="app:2.0")
    for source in (one, two):
        stacker("pull", source.source, "--keep-blobs")
    for name, target in (("app:1.0", "x"), ("app:2.0", "y"), ("app:2.0", "x")):
        stacker("push", name, f"oci:{tmp_path}/out:{target}")
    entries = json.loads((tmp_path / "out" / "index.json").read_bytes())["manifests"]
    named = {e.get("annotations", {}).get(images.REF_NAME): e["digest"] for e in entries}
    assert named == {None: one.image.manifest, "y": two.image.manifest, "x": two.image.manifest}


def test_a_directory_of_other_things_is_refused(
    stacker: Stacker, layout: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", layout.source)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    stacker.refused(2, "push", "app:1.0", f"oci:{tmp_path}/mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter"]


def test_a_layer_that_was_changed_on_disk_is_not_pushed(
    stacker: Stacker, layout: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", layout.source)
    (changed,) = [path for path in stacker.layers() if (path / "diff" / "b").exists()]
    (changed / "diff" / "b").write_bytes(b"3" * 100_000)
    words = stacker.refused(5, "push", "app:1.0", f"oci-archive:{tmp_path}/out.tar")
    assert "wrong digest" in words
    assert not (tmp_path / "out.tar").exists()
    stacker.assert_clean(images=1, layers=2)


@needs_registry
def test_a_password_lets_us_push(stacker: Stacker, layout: images.Layout, tmp_path: Path) -> None:
    stacker("pull", layout.source)
    with debian_registry(tmp_path / "registry", auth=with_passwords(tmp_path)) as host:
        place = f"docker://{host}/team/app:1.0"
        stacker.refused(4, "push", "app:1.0", place)
        auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        (tmp_path / "mine.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
        digest = stacker("push", "app:1.0", place, "--authfile", tmp_path / "mine.json").last
        assert inspected("--creds", f"{USER}:{PASSWORD}", place)["Digest"] == digest


@needs_registry
@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_a_token_lets_us_push_and_mount(
    stacker: Stacker, layout: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", layout.source, "--keep-blobs")
    with fake_registry() as server:
        tokens = Tokens(tmp_path, server)
        with debian_registry(tmp_path / "registry", auth=tokens.auth) as host:
            auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            mine = tmp_path / "mine.json"
            mine.write_text(json.dumps({"auths": {host: {"auth": auth}}}))
            one, two = (f"docker://{host}/team/{name}:1.0" for name in ("one", "two"))
            stacker.refused(4, "push", "app:1.0", one)
            stacker("push", "app:1.0", one, "--authfile", mine, "--jobs", "1")
            # One token, asked for with the first question, which is whether a blob is there.
            assert tokens.scopes == [["repository:team/one:pull,push"]]
            copied = stacker("copy", one, two, "--authfile", mine, "--jobs", "1", "--json")
    assert events(copied.out)[-1]["item"]["blobs"] == {"mounted": 3}
    assert {"repository:team/one:pull", "repository:team/two:pull,push"} <= {
        scope for scopes in tokens.scopes for scope in scopes
    }


# What a real registry does not do on demand


class Once:
    """Lets a quirk happen the first time that it fits."""

    def __init__(self, quirk: Callable[[Handler], bool]) -> None:
        self.quirk = quirk
        self.happened = 0

    def __call__(self, request: Handler) -> bool:
        if self.happened or not self.quirk(request):
            return False
        self.happened += 1
        return True


def second_piece(request: Handler) -> bool:
    return request.command == "PATCH" and not request.headers["Content-Range"].startswith("0-")


def dropped(request: Handler) -> bool:
    """Keep half of a piece and hang up."""
    if not second_piece(request):
        return False
    body = request.asked.body
    request.registry.uploads[request.path] += body[: len(body) // 2]
    request.close_connection = True
    return True


def dropped_after(request: Handler) -> bool:
    """Keep a piece, and hang up without an answer."""
    if not second_piece(request):
        return False
    request.registry.uploads[request.path] += request.asked.body
    request.close_connection = True
    return True


def forgotten(request: Handler) -> bool:
    """Forget the upload, as Debian's registry does when a piece comes in part."""
    if not second_piece(request):
        return False
    del request.registry.uploads[request.path]
    request.registry.uploads["a number that is taken"] = b""
    request.close_connection = True
    return True


def out_of_range(request: Handler) -> bool:
    return second_piece(request) and request.answer(416)


def busy(request: Handler) -> bool:
    return second_piece(request) and request.answer(429, b"", {"Retry-After": "0"})


def unavailable(request: Handler) -> bool:
    return request.command == "PUT" and request.answer(503, b"", {"Retry-After": "0"})


def short(request: Handler) -> bool:
    """Keep less than came, and say so."""
    if not second_piece(request):
        return False
    request.registry.uploads[request.path] += request.asked.body[:1000]
    return request.going_on(202, request.path)


def silent_close(request: Handler) -> bool:
    """Take the blob, and hang up without saying so."""
    if request.command != "PUT" or "uploads" not in request.path:
        return False
    request.wfile = open("/dev/null", "wb")  # noqa: SIM115
    request.upload()
    request.close_connection = True
    return True


@pytest.mark.parametrize(
    "quirk",
    [
        dropped,
        dropped_after,
        forgotten,
        out_of_range,
        busy,
        unavailable,
        short,
        silent_close,
    ],
)
def test_a_push_recovers(
    stacker: Stacker,
    server: FakeRegistry,
    layout: images.Layout,
    quirk: Callable[[Handler], bool],
) -> None:
    stacker("pull", layout.source, "--keep-blobs")
    once = server.quirk = Once(quirk)
    place = f"docker://{server.host}/app:1.0"
    assert stacker("push", "app:1.0", place, "--jobs", "1").last == layout.image.manifest
    assert once.happened == 1
    server.quirk = lambda _: False
    for digest in (*layout.image.layers, layout.image.config):
        data = server.content[f"/v2/app/blobs/{digest}"][1]
        assert images.digest_of(data) == digest


def nowhere(request: Handler) -> bool:
    return request.command == "POST" and request.answer(202)


def astray(request: Handler) -> bool:
    place = {"Location": "http://registry.example/upload"}
    return request.command == "POST" and request.answer(202, b"", place)


def to_a_file(request: Handler) -> bool:
    return request.command == "POST" and request.answer(202, b"", {"Location": "file:///tmp/x"})


def not_there(request: Handler) -> bool:
    place = {"Location": "/v2/app/blobs/uploads/gone"}
    return request.command == "POST" and request.answer(202, b"", place)


def forbidden(request: Handler) -> bool:
    return request.command == "POST" and request.answer(403, b'{"errors": [{"code": "DENIED"}]}')


def always_dropped(request: Handler) -> bool:
    request.close_connection = True
    return request.command == "PATCH"


def always_busy(request: Handler) -> bool:
    return request.command == "PATCH" and request.answer(429, b"", {"Retry-After": "0"})


def too_patient(request: Handler) -> bool:
    return request.command == "PATCH" and request.answer(503, b"", {"Retry-After": "3600"})


def wrong_digest(request: Handler) -> bool:
    wanted = request.command == "PUT" and "manifests" in request.path
    said = {"Docker-Content-Digest": f"sha256:{'0' * 64}"}
    return wanted and request.answer(201, b"", said)


def no_manifest(request: Handler) -> bool:
    wanted = request.command == "PUT" and "manifests" in request.path
    return wanted and request.answer(400, b'{"errors": [{"code": "MANIFEST_INVALID"}]}')


def huge_pieces(request: Handler) -> bool:
    if request.command != "POST":
        return False
    place = {"Location": "/v2/app/blobs/uploads/0", "OCI-Chunk-Min-Length": str(1 << 40)}
    return request.answer(202, b"", place)


@pytest.mark.parametrize(
    ("quirk", "failure"),
    [
        (nowhere, (10, "no upload URL")),
        (astray, (10, "want https")),
        (to_a_file, (10, "malformed URL")),
        (not_there, (10, "gave up after")),
        (forbidden, (4, "access denied")),
        (always_dropped, (10, "gave up after")),
        (always_busy, (10, "gave up after")),
        (too_patient, (10, "3600 s")),
        (wrong_digest, (5, "wrong digest stored")),
        (no_manifest, (10, "invalid manifest")),
        (huge_pieces, (10, "chunks too large")),
    ],
)
def test_a_failed_push_is_one_line_and_names_no_image(
    stacker: Stacker,
    server: FakeRegistry,
    layout: images.Layout,
    quirk: Callable[[Handler], bool],
    failure: tuple[int, str],
) -> None:
    code, said = failure
    stacker("pull", layout.source, "--keep-blobs")
    server.quirk = quirk
    words = stacker.refused(code, "push", "app:1.0", f"docker://{server.host}/app:1.0")
    assert said in words
    assert f"{server.host}/app" in words
    assert "/v2/app/manifests/1.0" not in server.content
    stacker.assert_clean(images=1, layers=2)


def test_a_mount_that_becomes_an_upload_is_one(
    stacker: Stacker, server: FakeRegistry, layout: images.Layout
) -> None:
    server.put("from", "1.0", layout.path)
    source, place = (f"docker://{server.host}/{name}:1.0" for name in ("from", "app"))
    assert stacker("copy", source, place).last == layout.image.manifest
    asked = [request for request in server.asked if request.method == "POST"]
    assert len(asked) == 3
    assert all("from=from&" in f"{r.path}&" and "mount=sha256%3A" in r.path for r in asked)


def test_a_mount_that_is_refused_is_an_upload(
    stacker: Stacker, server: FakeRegistry, layout: images.Layout
) -> None:
    server.put("from", "1.0", layout.path)
    server.quirk = lambda request: "mount=" in request.path and request.answer(403)
    source, place = (f"docker://{server.host}/{name}:1.0" for name in ("from", "app"))
    assert stacker("copy", source, place).last == layout.image.manifest


def test_a_source_that_breaks_off_leaves_no_image(
    stacker: Stacker, server: FakeRegistry, layout: images.Layout
) -> None:
    server.put("from", "1.0", layout.path)
    large = max(server.content, key=lambda path: len(server.content[path][1]))
    kind, data = server.content[large]
    server.content[large] = (kind, data[:-1] + bytes([data[-1] ^ 1]))
    with fake_registry() as target:
        words = stacker.refused(
            5, "copy", f"docker://{server.host}/from:1.0", f"docker://{target.host}/app:1.0"
        )
        assert "wrong digest" in words
        assert not [path for path in target.content if "manifests" in path]


# Tags


@needs_registry
def test_tags_are_listed(stacker: Stacker, registry: str, layout: images.Layout) -> None:
    for tag in ("1.0", "1.1", "latest"):
        push(layout.source, registry, f"tags/app:{tag}")
    place = f"docker://{registry}/tags/app"
    assert sorted(stacker("tags", place).out.split()) == ["1.0", "1.1", "latest"]
    document = stacker("tags", place, "--json").document
    conforming(document)
    assert {item["name"] for item in document["items"]} == {"1.0", "1.1", "latest"}
    stacker.refused(3, "tags", f"docker://{registry}/tags/none")
    stacker.refused(2, "tags", f"{registry}/tags/app")


# Ended, and unprivileged


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_push_that_is_ended_leaves_nothing(
    stacker: Stacker,
    server: FakeRegistry,
    layout: images.Layout,
    number: signal.Signals,
) -> None:
    stacker("pull", layout.source)
    reached, go_on = threading.Event(), threading.Event()

    def held(request: Handler) -> bool:
        if request.command != "PATCH":
            return False
        reached.set()
        go_on.wait(60)
        return request.answer(500)

    server.quirk = held
    started = stacker.start("push", "app:1.0", f"docker://{server.host}/app:1.0")
    assert reached.wait(60)
    started.send_signal(number)
    _, said = started.communicate(timeout=60)
    go_on.set()
    assert started.returncode == 128 + number
    assert len(said.splitlines()) == 1
    stacker.assert_clean(images=1, layers=2)
    assert not [path for path in server.content if "manifests" in path]


def test_an_archive_that_is_not_finished_is_not_there(
    stacker: Stacker, server: FakeRegistry, layout: images.Layout, tmp_path: Path
) -> None:
    server.put("app", "1.0", layout.path)
    (tmp_path / "out").mkdir()
    server.quirk = lambda request: layout.image.layers[0] in request.path and request.answer(404)
    place = f"docker://{server.host}/app:1.0"
    stacker.refused(3, "copy", place, f"oci-archive:{tmp_path}/out/a.tar")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change to another user")
def test_who_has_no_privilege_pushes_the_same(stacker: Stacker) -> None:
    """Owners and modes are those of the image, whoever's files the tree has."""
    place = Path(tempfile.mkdtemp(prefix="stacker-test-"))
    try:
        python = startable_python()
        if python is None:
            pytest.skip("no interpreter that an unprivileged user can start")
        entries = [file("a", b"1", uid=5, gid=6, mode=0o4755), folder("d/", uid=7, mode=0o700)]
        app = images.layout(place / "app", [tar(*entries, file("d/b", b"2"))])
        for path in (place, *place.rglob("*")):
            os.chown(path, 65534, 65534)
        unprivileged = Stacker(place / "store", wrap=UNPRIVILEGED, python=python)
        unprivileged("pull", app.source, cwd=place)
        digest = unprivileged("push", "app:1.0", f"oci:{place}/out", cwd=place).last
        stacker("pull", app.source)
        assert stacker("push", "app:1.0", f"oci:{stacker.store}-out").last == digest
    finally:
        shutil.rmtree(place)
