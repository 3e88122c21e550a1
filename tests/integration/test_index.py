"""Indexes: created, annotated, pushed, and pulled for each platform."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import images
from tests.support.command import Stacker, conforming
from tests.support.registries import Handler, fake_registry, needs_registry, push
from tests.support.tars import file, tar

INDEX = "application/vnd.oci.image.index.v1+json"


def image_for(tmp_path: Path, architecture: str) -> images.Layout:
    """Return an image for a platform."""
    layers = [tar(file("on", architecture.encode() * 1000))]
    return images.layout(
        tmp_path / architecture,
        layers,
        name=f"app-{architecture}",
        platform=("linux", architecture),
    )


def entry(layout: images.Layout) -> dict[str, Any]:
    """Return the descriptor of a layout's only manifest, as an index lists it."""
    (found,) = json.loads((layout.path / "index.json").read_bytes())["manifests"]
    return {name: found[name] for name in ("mediaType", "digest", "size")}


def members(stacker: Stacker, name: str) -> list[dict[str, Any]]:
    item = conforming(stacker("index", "inspect", name, "--json").document)["item"]
    assert isinstance(item["members"], list)
    return item["members"]


def raw(place: str) -> bytes:
    words = ["skopeo", "inspect", "--raw", "--tls-verify=false", place]
    return subprocess.run(words, check=True, capture_output=True).stdout


@needs_registry
@pytest.mark.parametrize("keep", [True, False], ids=["blobs kept", "packed again"])
def test_each_platform_pulls_its_image_of_an_index(
    stacker: Stacker, registry: str, tmp_path: Path, keep: bool
) -> None:
    here, there = image_for(tmp_path, "amd64"), image_for(tmp_path, "arm64")
    options = ["--keep-blobs"] if keep else []
    stacker("pull", "--platform", "linux/amd64", here.source, *options)
    push(there.source, registry, "elsewhere/arm64:1.0", "--preserve-digests")
    name, place = f"app:{keep}".lower(), f"docker://{registry}/hand/{keep}:1.0".lower()
    stacker("index", "create", name, "app-amd64", f"docker://{registry}/elsewhere/arm64:1.0")
    digest = stacker("index", "push", name, place).last
    pushed = raw(place)
    assert images.digest_of(pushed) == digest
    assert (stacker.store / "blobs" / "sha256" / digest[7:]).read_bytes() == pushed
    entries = json.loads(pushed)["manifests"]
    assert [entry["platform"]["architecture"] for entry in entries] == ["amd64", "arm64"]
    assert (entries[0]["digest"] == here.image.manifest) is keep
    assert entries[1]["digest"] == there.image.manifest
    for layout, architecture in ((here, "amd64"), (there, "arm64")):
        wanted = ("--platform", f"linux/{architecture}")
        assert stacker("pull", place, *wanted).last == layout.image.config
    assert members(stacker, place) == [{**entry, "origin": None} for entry in entries]
    # The second push sends no member, and the index keeps its digest.
    again = stacker("index", "push", name, place, "--json")
    documents = [conforming(json.loads(line)) for line in again.out.splitlines()]
    assert [d["sent"] for d in documents if d["kind"] == "member-sent"] == [False, False]
    assert documents[-1]["item"]["digest"] == digest


@needs_registry
def test_remote_member_is_mounted_instead_of_sent(
    stacker: Stacker, registry: str, tmp_path: Path
) -> None:
    push(image_for(tmp_path, "arm64").source, registry, "mounted/from:1.0", "--preserve-digests")
    stacker("index", "create", "app", f"docker://{registry}/mounted/from:1.0")
    done = stacker("index", "push", "app", f"docker://{registry}/mounted/to:1.0", "--json")
    events = [conforming(json.loads(line)) for line in done.out.splitlines()]
    assert [e["how"] for e in events if e["kind"] == "blob-arrived"] == ["mounted", "mounted"]
    assert (events[-1]["item"]["blobs"], events[-1]["item"]["documents"]) == ({"mounted": 2}, 2)


@needs_registry
def test_members_of_a_remote_index_become_members(
    stacker: Stacker, registry: str, tmp_path: Path
) -> None:
    platforms = [("linux", "amd64"), ("linux", "arm64")]
    both = images.several(
        tmp_path / "both", [(p, [tar(file("on", p[1].encode()))]) for p in platforms]
    )
    push(both.source, registry, "apart:1.0", "--all")
    stacker("index", "create", "app", f"docker://{registry}/apart:1.0")
    assert [m["digest"] for m in members(stacker, "app")] == [i.manifest for i in both.images]
    with fake_registry() as other:
        stacker("index", "push", "app", f"docker://{other.host}/apart:1.0")
        assert "/v2/apart/manifests/1.0" in other.content


def test_attestations_are_members(stacker: Stacker, tmp_path: Path) -> None:
    def attested(manifest: dict[str, Any]) -> None:
        manifest["layers"][0]["mediaType"] = "application/vnd.in-toto+json"

    image = image_for(tmp_path, "amd64")
    words = images.layout(tmp_path / "words", [b"{}"], compression="none", manifest=attested)
    with fake_registry() as server, fake_registry() as other:
        server.put("app", "amd64", image.path)
        server.put("app", "words", words.path)
        sources = [f"docker://{server.host}/app:{tag}" for tag in ("amd64", "words")]
        entries = [
            {**entry(image), "platform": {"os": "linux", "architecture": "amd64"}},
            {**entry(words), "platform": {"os": "unknown", "architecture": "unknown"}},
        ]
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
        server.content["/v2/app/manifests/1.0"] = (INDEX, json.dumps(index).encode())
        assert "want a tar layer" in stacker.refused(7, "pull", sources[1])
        stacker("index", "create", "app", f"docker://{server.host}/app:1.0")
        stacker("index", "push", "app", f"docker://{other.host}/app:1.0")
        assert json.loads(other.content["/v2/app/manifests/1.0"][1])["manifests"] == entries
        assert f"/v2/app/blobs/{words.image.layers[0]}" in other.content
        stacker("copy", sources[1], f"docker://{other.host}/app:words")
        place = f"docker://{other.host}/app:1.0"
        assert stacker("pull", "--platform", "linux/amd64", place).last == image.image.config


def test_member_is_named_by_platform_image_or_digest(stacker: Stacker, tmp_path: Path) -> None:
    layout = image_for(tmp_path, "arm")
    stacker("pull", "--platform", "linux/arm", layout.source)
    stacker("index", "create", "app", "app-arm")
    annotate = ("index", "annotate", "app")
    stacker(*annotate, "linux/arm", "--variant", "v6", "--os-version", "6.1")
    stacker(*annotate, "app-arm", "--annotation", "a=1", "--annotation", "b=2")
    stacker(*annotate, layout.image.manifest, "--annotation", "b=")
    stacker(*annotate, layout.image.manifest[7:15], "--annotation", "c=x=y")
    stacker(*annotate, "--annotation", "of=index")
    (member,) = members(stacker, "app")
    assert member["platform"] == {
        "architecture": "arm",
        "os": "linux",
        "os.version": "6.1",
        "variant": "v6",
    }
    assert member["annotations"] == {"a": "1", "c": "x=y"}
    assert member["origin"] == layout.image.config
    assert stacker("index", "inspect", "app", "--json").item["annotations"] == {"of": "index"}
    shown = stacker("index", "inspect", "app").out
    assert "linux/arm/v6 6.1" in shown
    assert layout.image.manifest in shown


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        (["--variant", "v6"], "linux/arm/v6"),
        (["--arch", "arm64"], "linux/arm64"),
        (
            ["--os", "windows", "--arch", "amd64", "--os-version", "10.0.1.2"],
            "windows/amd64:10.0.1",
        ),
    ],
)
def test_platform_in_an_index_overrides_the_config(
    stacker: Stacker, tmp_path: Path, changes: list[str], wanted: str
) -> None:
    layout = images.layout(
        tmp_path / "arm",
        [tar(file("a", b"1"))],
        platform=("linux", "arm"),
        config=lambda config: config.update(variant="v7"),
    )
    with fake_registry() as server:
        server.put("app", "arm", layout.path)
        place = f"docker://{server.host}/app"
        stacker.refused(3, "pull", "--platform", wanted, f"{place}:arm")
        stacker("index", "create", "app", f"{place}:arm")
        stacker("index", "annotate", "app", "linux/arm/v7", *changes)
        stacker("index", "push", "app", f"{place}:1.0")
        assert stacker("pull", "--platform", wanted, f"{place}:1.0").last == layout.image.config
        copied = stacker("copy", "--platform", wanted, f"{place}:1.0", f"oci:{tmp_path}/copy").last
        assert copied == layout.image.manifest
        stacker.refused(3, "pull", "--platform", "linux/arm/v5", f"{place}:1.0")


def test_replaced_documents_of_an_index_are_removed(stacker: Stacker, tmp_path: Path) -> None:
    stacker("pull", "--platform", "linux/arm", image_for(tmp_path, "arm").source)
    before = {path.name for path in (stacker.store / "blobs").rglob("*")}
    stacker("index", "create", "app", "app-arm")
    stacker("index", "annotate", "app", "--annotation", "a=1")
    stacker("index", "create", "other", "app-arm")
    listed = conforming(stacker("index", "list", "--json").document)["items"]
    assert [item["name"] for item in listed] == ["app", "other"]
    assert "linux/arm" in stacker("index", "list").out
    conforming(stacker("index", "rm", "app", "other", "--json").document)
    assert {path.name for path in (stacker.store / "blobs").rglob("*")} == before
    assert stacker("index", "list", "--json").items == []


def test_invalid_commands_are_refused(stacker: Stacker, tmp_path: Path) -> None:
    stacker("pull", "--platform", "linux/arm", image_for(tmp_path, "arm").source)
    stacker.refused(3, "index", "create", "app", "none")
    stacker.refused(2, "index", "create", "a b", "app-arm")
    stacker("index", "create", "app", "app-arm")
    assert "index exists" in stacker.refused(2, "index", "create", "app", "app-arm")
    stacker.refused(3, "index", "inspect", "none")
    stacker.refused(3, "index", "rm", "app", "none")
    stacker.refused(3, "index", "annotate", "app", "linux/s390x", "--arch", "arm64")
    stacker.refused(2, "index", "annotate", "app", "--arch", "arm64")
    stacker.refused(2, "index", "annotate", "app", "linux/arm", "--annotation", "a")
    stacker.refused(2, "index", "annotate", "app", "linux/arm", "--os", "../..")
    stacker.refused(2, "index")
    stacker.refused(2, "index", "made")
    assert members(stacker, "app")[0]["platform"] == {"architecture": "arm", "os": "linux"}


@needs_registry
def test_single_image_is_not_an_index(stacker: Stacker, registry: str, tmp_path: Path) -> None:
    push(image_for(tmp_path, "arm").source, registry, "single:1.0")
    words = stacker.refused(2, "index", "inspect", f"docker://{registry}/single:1.0")
    assert "not an index" in words


def test_inspecting_an_index_in_a_registry_creates_no_store(
    stacker: Stacker, tmp_path: Path
) -> None:
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [entry(image_for(tmp_path, "arm"))],
    }
    with fake_registry() as server:
        server.content["/v2/app/manifests/1.0"] = (INDEX, json.dumps(index).encode())
        assert len(members(stacker, f"docker://{server.host}/app:1.0")) == 1
    assert not stacker.store.exists()


def test_push_without_a_removed_member_fails(stacker: Stacker, tmp_path: Path) -> None:
    stacker("pull", "--platform", "linux/arm", image_for(tmp_path, "arm").source)
    stacker("index", "create", "app", "app-arm")
    stacker("rm", "app-arm")
    with fake_registry() as server:
        stacker.refused(3, "index", "push", "app", f"docker://{server.host}/app:1.0")
        assert not server.content


def test_index_is_pushed_to_a_layout_and_an_archive(stacker: Stacker, tmp_path: Path) -> None:
    for architecture in ("arm64", "amd64"):
        stacker(
            "pull", "--platform", f"linux/{architecture}", image_for(tmp_path, architecture).source
        )
    stacker("index", "create", "app", "app-arm64", "app-amd64")
    for form in ("oci", "oci-archive"):
        place = f"{form}:{tmp_path}/{form}:app"
        stacker("index", "push", "app", place)
        for architecture in ("arm64", "amd64"):
            wanted = ("--platform", f"linux/{architecture}")
            pulled = stacker("pull", place, *wanted).last
            assert pulled == stacker("inspect", f"app-{architecture}", "--json").item["image_id"]


def test_index_that_changes_during_a_push_is_not_overwritten(
    stacker: Stacker, tmp_path: Path
) -> None:
    stacker("pull", "--platform", "linux/arm", image_for(tmp_path, "arm").source)
    stacker("index", "create", "app", "app-arm")
    changes: list[str] = []

    def changing(request: Handler) -> bool:
        if request.command == "PUT" and "manifests" in request.path and not changes:
            changes.append(stacker("index", "annotate", "app", "--annotation", "a=1").last)
        return False

    with fake_registry() as server:
        server.quirk = changing
        place = f"docker://{server.host}/app:1.0"
        assert "index changed during the push" in stacker.refused(8, "index", "push", "app", place)
        assert "/v2/app/manifests/1.0" not in server.content
        stacker("index", "push", "app", place)
        pushed = json.loads(server.content["/v2/app/manifests/1.0"][1])
    assert pushed["annotations"] == {"a": "1"}
