"""Pulls of images of schema 1."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import Stacker, conforming
from tests.support.registries import FakeRegistry, Handler
from tests.support.schema1 import EMPTY, PLAIN, SIGNED, Step, manifest, signed, step
from tests.support.tars import file, tar, whiteout

LOWER = tar(file("a", b"1"), file("b", b"2"), file("large", bytes(2_000_000)))
UPPER = tar(whiteout("b"), file("c", b"3"))
STEPS = [
    step(gzip.compress(LOWER, mtime=0), "add files && <more>"),
    step(EMPTY, "ENV a=b", throwaway=True),
    step(gzip.compress(UPPER, mtime=0), "rm b", config={"Env": ["a=b"], "Cmd": ["/c"]}),
    step(EMPTY, "CMD /c", throwaway=True, config={"Env": ["a=b"], "Cmd": ["/c"]}),
]


@pytest.fixture
def stacker(tmp_path: Path) -> Stacker:
    return Stacker(tmp_path / "store", environ={"HOME": str(tmp_path)})


def serve(server: FakeRegistry, steps: list[Step], *, kind: str = PLAIN, tag: str = "1.0") -> bytes:
    """Serve an image of schema 1 as app:1.0, and return its manifest without signatures."""
    plain = manifest(steps)
    for one in steps:
        server.content[f"/v2/app/blobs/{one.digest}"] = ("application/x", one.blob)
    raw = signed(plain) if kind == SIGNED else plain
    for name in (tag, images.digest_of(plain)):
        server.content[f"/v2/app/manifests/{name}"] = (kind, raw)
    return plain


@pytest.mark.parametrize("kind", [PLAIN, SIGNED, "application/json", "text/plain"])
def test_image_of_schema_1_is_converted_to_schema_2(
    stacker: Stacker, server: FakeRegistry, tmp_path: Path, kind: str
) -> None:
    serve(server, STEPS, kind=kind)
    name = f"{server.host}/app:1.0"
    image_id = stacker("pull", f"docker://{name}").last
    stacker("unpack", image_id, tmp_path / "root")
    assert sorted(p.name for p in (tmp_path / "root").iterdir()) == ["a", "c", "large"]
    (image,) = stacker("images", "--json").items
    assert (image["image_id"], image["names"]) == (image_id, [name])
    diff_ids = [images.digest_of(layer) for layer in (LOWER, UPPER)]
    assert [entry["diff_id"] for entry in stacker("layers", name, "--json").items] == diff_ids
    assert len(stacker("history", name, "--json").items) == 4
    stacker.assert_clean(images=1, layers=2)


def test_second_pull_reads_no_layer_and_gives_the_same_image(
    stacker: Stacker, server: FakeRegistry
) -> None:
    serve(server, STEPS, kind=SIGNED)
    first = stacker("pull", f"docker://{server.host}/app:1.0", "--json").last_document["item"]
    assert (first["unpacked"], first["present"]) == (2, 0)
    server.asked.clear()
    second = stacker("pull", f"docker://{server.host}/app:1.0", "--json").last_document["item"]
    assert (second["unpacked"], second["present"]) == (0, 2)
    assert second["image_id"] == first["image_id"]
    assert server.count("/blobs/") == 0
    stacker.assert_clean(images=1, layers=2)


def test_undeclared_diff_id_is_null_in_events(stacker: Stacker, server: FakeRegistry) -> None:
    serve(server, STEPS)
    out = stacker("pull", f"docker://{server.host}/app:1.0", "--json").out
    events = [json.loads(line) for line in out.splitlines()]
    for event in events:
        conforming(event)
    (found,) = [event for event in events if event["kind"] == "layers-found"]
    blobs = {STEPS[0].digest, STEPS[2].digest}
    assert {(layer["diff_id"], layer["blob"]) for layer in found["missing"]} == {
        (None, blob) for blob in blobs
    }
    unpacked = {e["blob"]: e["diff_id"] for e in events if e["kind"] == "layer-unpacked"}
    assert unpacked == {
        STEPS[0].digest: images.digest_of(LOWER),
        STEPS[2].digest: images.digest_of(UPPER),
    }


def test_digest_of_a_signed_manifest_excludes_its_signatures(
    stacker: Stacker, server: FakeRegistry
) -> None:
    plain = serve(server, STEPS, kind=SIGNED)
    stacker("pull", f"docker://{server.host}/app@{images.digest_of(plain)}")
    other = f"sha256:{hashlib.sha256(signed(plain)).hexdigest()}"
    server.content[f"/v2/app/manifests/{other}"] = (SIGNED, signed(plain))
    said = stacker.refused(5, "pull", f"docker://{server.host}/app@{other}")
    assert "wrong digest" in said or "wrong size" in said


def test_layers_are_shared_with_images_of_schema_2(
    stacker: Stacker, server: FakeRegistry, tmp_path: Path
) -> None:
    layout = images.layout(tmp_path / "new", [LOWER, UPPER])
    stacker("pull", layout.source)
    serve(server, STEPS)
    pulled = stacker("pull", f"docker://{server.host}/app:1.0", "--json").last_document["item"]
    # The diff_ids are known only after unpacking.
    assert (pulled["unpacked"], pulled["present"]) == (0, 2)
    stacker.assert_clean(images=2, layers=2)


def test_layer_that_occurs_twice_is_fetched_once(
    stacker: Stacker, server: FakeRegistry, tmp_path: Path
) -> None:
    again = [STEPS[0], STEPS[2], step(STEPS[0].blob, "again")]
    serve(server, again)
    image_id = stacker("pull", f"docker://{server.host}/app:1.0").last
    stacker("unpack", image_id, tmp_path / "root")
    assert sorted(p.name for p in (tmp_path / "root").iterdir()) == ["a", "b", "c", "large"]
    assert server.count(STEPS[0].digest) == 2  # its size, and its content
    stacker.assert_clean(images=1, layers=2)


def test_manifest_cannot_pair_a_blob_with_another_diff_id(
    stacker: Stacker, server: FakeRegistry, tmp_path: Path
) -> None:
    evil = images.layout(tmp_path / "evil", [tar(file("evil", b"x"))])
    stacker("pull", evil.source)
    # An image that pairs a layer of the store with the victim's blob.
    victim = STEPS[0].digest

    def claims(document: dict[str, list[dict[str, object]]]) -> None:
        document["layers"][0]["digest"] = victim
        document["layers"][0]["size"] = len(STEPS[0].blob)

    lying = images.layout(tmp_path / "lying", [tar(file("evil", b"x"))], manifest=claims)
    stacker("pull", lying.source)
    serve(server, STEPS[:1])
    image_id = stacker("pull", f"docker://{server.host}/app:1.0").last
    stacker("unpack", image_id, tmp_path / "root")
    assert (tmp_path / "root" / "a").exists()
    assert not (tmp_path / "root" / "evil").exists()


def test_blob_of_undeclared_size_is_bounded(stacker: Stacker, server: FakeRegistry) -> None:
    serve(server, STEPS)
    said = stacker.refused(6, "pull", f"docker://{server.host}/app:1.0", "--max-bytes", "1K")
    assert "--max-bytes" in said
    server.quirk = lambda request: (
        request.headers.get("Range") == "bytes=0-0"
        and request.answer(206, b"x", {"Content-Range": "bytes 0-0/*"})
    )
    assert "size" in stacker.refused(7, "pull", f"docker://{server.host}/app:1.0")
    server.quirk = lambda request: (
        request.headers.get("Range") == "bytes=0-0"
        and request.answer(206, b"x", {"Content-Range": "bytes 0-0/17"})
    )
    assert "wrong size" in stacker.refused(5, "pull", f"docker://{server.host}/app:1.0")
    stacker.assert_clean(layers=0)


def test_wrong_blob_of_schema_1_is_refused(stacker: Stacker, server: FakeRegistry) -> None:
    serve(server, STEPS)
    server.content[f"/v2/app/blobs/{STEPS[2].digest}"] = ("x", STEPS[0].blob)
    assert "wrong digest" in stacker.refused(5, "pull", f"docker://{server.host}/app:1.0")
    stacker.assert_clean()


def test_platform_is_checked_before_layers_are_fetched(
    stacker: Stacker, server: FakeRegistry
) -> None:
    serve(server, STEPS)
    place = f"docker://{server.host}/app:1.0"
    said = stacker.refused(3, "pull", place, "--platform", "linux/s390x")
    assert "linux/amd64" in said
    assert server.count("/blobs/") == 0
    stacker("pull", place, "--platform", "linux/amd64")


def test_interrupted_pull_of_schema_1_resumes(stacker: Stacker, server: FakeRegistry) -> None:
    import random

    noise = gzip.compress(tar(file("noise", random.Random(0).randbytes(2_000_000))), mtime=0)
    serve(server, [step(noise, "make noise")])

    def breaks(request: Handler) -> bool:
        if request.headers.get("Range") == "bytes=0-0" or "blobs" not in request.path:
            return False
        if request.headers.get("Range"):
            return request.answer(404)
        return request.broken(noise, 1_500_000)

    server.quirk = breaks
    stacker.refused(3, "pull", f"docker://{server.host}/app:1.0")
    server.quirk = lambda _: False
    stacker("pull", f"docker://{server.host}/app:1.0")
    assert server.asked[-1].headers["range"] == f"bytes=1500000-{len(noise) - 1}"
    stacker.assert_clean(images=1, layers=1)


@pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed")
@pytest.mark.parametrize("kind", [PLAIN, SIGNED])
def test_skopeo_converts_schema_1_to_the_same_config(
    stacker: Stacker, server: FakeRegistry, tmp_path: Path, kind: str
) -> None:
    serve(server, STEPS, kind=kind)
    skopeo = ["skopeo", "--insecure-policy", "copy", "--src-tls-verify=false"]
    skopeo += ["--remove-signatures", "-f", "v2s2"]
    subprocess.run(
        [*skopeo, f"docker://{server.host}/app:1.0", f"dir:{tmp_path / 'dir'}"],
        check=True,
        capture_output=True,
    )
    theirs = json.loads((tmp_path / "dir" / "manifest.json").read_bytes())
    ours = stacker("pull", f"docker://{server.host}/app:1.0").last
    assert ours == theirs["config"]["digest"]
