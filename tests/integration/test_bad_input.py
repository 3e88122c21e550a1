"""Invalid images: one message, an exit code, and no files left in the store."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import images
from tests.support.command import Stacker
from tests.support.tars import char, entry, file, hardlink, pax, pax_header, symlink, tar, whiteout

LAYER = tar(file("small", b"1"), file("large", os.urandom(200_000)))
UPPER = tar(whiteout("small"), file("top", b"2"))


@pytest.fixture
def app(tmp_path: Path) -> images.Layout:
    return images.layout(tmp_path / "app", [LAYER, UPPER])


def broken(data: bytes) -> bytes:
    """Return data with a changed byte in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize(
    "change",
    [
        broken,
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data + b"\0",
        lambda _: b"",
    ],
    ids=["changed", "one-short", "cut", "longer", "empty"],
)
def test_blob_with_a_wrong_digest_is_rejected(
    stacker: Stacker,
    tmp_path: Path,
    change: Callable[[bytes], bytes],
    compression: images.Compression,
) -> None:
    app = images.layout(tmp_path / "app", [LAYER], compression=compression)
    blob = app.blob(app.image.layers[0])
    blob.write_bytes(change(blob.read_bytes()))
    assert app.image.layers[0][7:] in stacker.refused(5, "pull", app.source)
    stacker.assert_clean(layers=0)


def test_layer_with_a_wrong_diff_id_is_rejected(stacker: Stacker, tmp_path: Path) -> None:
    def lie(config: dict[str, Any]) -> None:
        config["rootfs"]["diff_ids"][0] = images.digest_of(b"something else")

    app = images.layout(tmp_path / "app", [LAYER], config=lie)
    text = stacker.refused(5, "pull", app.source)
    assert images.digest_of(LAYER)[7:] in text
    assert images.digest_of(b"something else")[7:] in text
    stacker.assert_clean(layers=0)


@pytest.mark.parametrize("difference", [-1, 1])
def test_descriptor_with_a_wrong_size_is_rejected(
    stacker: Stacker, tmp_path: Path, difference: int
) -> None:
    def lie(manifest: dict[str, Any]) -> None:
        manifest["layers"][0]["size"] += difference

    app = images.layout(tmp_path / "app", [LAYER], manifest=lie)
    assert "size" in stacker.refused(5, "pull", app.source)
    stacker.assert_clean(layers=0)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize("change", [broken, lambda data: data[:-9]], ids=["corrupt", "truncated"])
def test_corrupt_compression_is_rejected(
    stacker: Stacker,
    tmp_path: Path,
    compression: images.Compression,
    change: Callable[[bytes], bytes],
) -> None:
    data = change(images.compressed(LAYER, compression))

    def agree(manifest: dict[str, Any]) -> None:
        layer = manifest["layers"][0]
        layer["digest"], layer["size"] = images.digest_of(data), len(data)

    app = images.layout(tmp_path / "app", [LAYER], compression=compression, manifest=agree)
    app.blob(images.digest_of(data)).write_bytes(data)
    stacker.refused(5, "pull", app.source)
    stacker.assert_clean(layers=0)


@pytest.mark.parametrize("part", ["layer", "config", "manifest"])
def test_missing_blob_is_named(stacker: Stacker, app: images.Layout, part: str) -> None:
    image = app.image
    digest = {"layer": image.layers[1], "config": image.config, "manifest": image.manifest}[part]
    app.blob(digest).unlink()
    assert digest[7:] in stacker.refused(3, "pull", app.source)
    stacker.assert_clean()


@pytest.mark.parametrize("part", ["config", "manifest"])
@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"\xff", b'{"a": 1, "a": 2}', b"[" * 100_000, b" " * (4 << 20) + b"{}"],
    ids=["cut", "list", "no-utf8", "twice", "deep", "over-4-MiB"],
)
def test_malformed_documents_are_rejected(
    stacker: Stacker, app: images.Layout, tmp_path: Path, part: str, content: bytes
) -> None:
    digest = images.digest_of(content)
    new = {"digest": digest, "size": len(content)}
    if part == "config":
        app = images.layout(
            tmp_path / "other", [LAYER], manifest=lambda manifest: manifest["config"].update(new)
        )
    else:
        index = json.loads((app.path / "index.json").read_bytes())
        index["manifests"][0].update(new)
        (app.path / "index.json").write_text(json.dumps(index))
    app.blob(digest).write_bytes(content)
    assert digest in stacker.refused(5, "pull", app.source)
    stacker.assert_clean(layers=0)


@pytest.mark.parametrize("content", [b"{", b'{"schemaVersion": 2, "manifests": 7}'])
def test_malformed_index_is_rejected(stacker: Stacker, app: images.Layout, content: bytes) -> None:
    (app.path / "index.json").write_bytes(content)
    stacker.refused(5, "pull", app.source)
    stacker.assert_clean(layers=0)


def test_manifest_that_is_also_an_index_is_rejected(stacker: Stacker, tmp_path: Path) -> None:
    app = images.layout(
        tmp_path / "app", [LAYER], manifest=lambda manifest: manifest.update(manifests=[])
    )
    assert "also an index" in stacker.refused(5, "pull", app.source)
    stacker.assert_clean(layers=0)


def test_different_numbers_of_layers_are_rejected(stacker: Stacker, tmp_path: Path) -> None:
    app = images.layout(
        tmp_path / "app", [LAYER, UPPER], config=lambda config: config["rootfs"]["diff_ids"].pop()
    )
    text = stacker.refused(5, "pull", app.source)
    assert "got 2 in the manifest, want 1 as in the config's diff_ids" in text
    stacker.assert_clean(layers=0)


@pytest.mark.parametrize(
    "lie",
    [
        lambda manifest: manifest["layers"][0].update(mediaType="application/x-layer"),
        lambda manifest: manifest["config"].update(mediaType="application/x-config"),
        lambda manifest: manifest.update(schemaVersion=1),
    ],
    ids=["layer", "config", "schema-1"],
)
def test_unknown_media_type_is_unsupported(
    stacker: Stacker, tmp_path: Path, lie: images.Change
) -> None:
    app = images.layout(tmp_path / "app", [LAYER], manifest=lie)
    stacker.refused(7, "pull", app.source)
    stacker.assert_clean(layers=0)


def test_missing_platform_lists_the_available_ones(stacker: Stacker, tmp_path: Path) -> None:
    both = [(("linux", "s390x"), [LAYER]), (("windows", "amd64"), [LAYER])]
    layout = images.several(tmp_path / "app", both)
    text = stacker.refused(3, "pull", layout.source, "--platform", "linux/arm64")
    assert "linux/s390x, windows/amd64" in text
    assert "linux/arm64" in text
    single = images.layout(tmp_path / "single", [LAYER])
    stacker.refused(3, "pull", single.source, "--platform", "linux/arm64")
    stacker.assert_clean(layers=0)


HOSTILE = {
    "device-0-0": tar(char("hidden", 0, 0)),
    "bare-whiteout": tar(whiteout("")),
    "wrong-checksum": tar(file("a", b"1", checksum=1)),
    "cut-member": tar(file("a", b"x" * 2000), end=False)[:-1024],
    "no-end": tar(file("a", b"1"), end=False) + b"rubbish" * 100,
    "root-is-a-file": tar(file(".", b"1")),
    "malformed-pax": tar(pax_header(b"9999 path=x\n"), file("a")),
    "empty-symlink": tar(symlink("a", "")),
    "negative-size": tar(entry("a", size=b"\xff" * 12)),
}


@pytest.mark.parametrize("layer", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_layer_is_rejected(stacker: Stacker, tmp_path: Path, layer: bytes) -> None:
    app = images.layout(tmp_path / "app", [layer])
    stacker.refused(6, "pull", app.source)
    stacker.assert_clean(layers=0)


def test_hard_link_without_a_target_is_rejected(stacker: Stacker, tmp_path: Path) -> None:
    app = images.layout(tmp_path / "app", [LAYER, tar(hardlink("a", "nowhere"))])
    stacker.refused(6, "pull", app.source)
    stacker.assert_clean(layers=2)  # in another image the link may have a target
    assert not list((stacker.store / "chains").rglob("chain.json"))


def test_layer_cannot_escape_from_the_store(stacker: Stacker, tmp_path: Path) -> None:
    app = images.layout(
        tmp_path / "app",
        [tar(symlink("up", "/../.."), file("up/a", b"1"), file("../../../b", b"2"))],
    )
    before = sorted(os.listdir(tmp_path))
    stacker("pull", app.source)
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "store"])
    stacker("unpack", "app:1.0", tmp_path / "tree")
    assert sorted(os.listdir(tmp_path / "tree")) == ["a", "b", "up"]


@pytest.mark.parametrize(
    ("flag", "value", "layer"),
    [
        ("--max-bytes", "100K", LAYER),
        ("--max-entries", "1", LAYER),
        ("--max-depth", "3", tar(file("a/b/c/d"))),
        ("--max-pax-bytes", "1K", tar(pax(comment="x" * 2000), file("a"))),
        ("--max-names", "20", tar(file("n" * 21 + "/x"))),
        ("--max-ratio", "2", tar(file("zeros", bytes(80 << 20)))),
    ],
)
def test_layer_over_a_limit_names_the_option(
    stacker: Stacker, tmp_path: Path, flag: str, value: str, layer: bytes
) -> None:
    app = images.layout(tmp_path / "app", [layer])
    assert f"raise the limit with {flag} " in stacker.refused(6, "pull", app.source, flag, value)
    stacker.assert_clean(layers=0)
    assert stacker("pull", app.source).last == app.image.config


def test_too_long_path_is_one_short_message(stacker: Stacker, tmp_path: Path) -> None:
    deep = "/".join(["d" * 200] * 30)
    app = images.layout(tmp_path / "app", [tar(file(f"{deep}/x"))])
    said = stacker.refused(6, "pull", app.source)
    assert "want at most 4095" in said
    assert len(said) < 1000


def test_raised_limit_holds_for_a_rebased_layer(stacker: Stacker, tmp_path: Path) -> None:
    deep = "lib/" + "/".join("d" * 600)
    app = images.layout(tmp_path / "app", [tar(symlink("lib", "usr")), tar(file(deep))])
    assert stacker("pull", app.source, "--max-depth", "700").last == app.image.config


def test_failed_pull_keeps_its_valid_layers(stacker: Stacker, app: images.Layout) -> None:
    blob = app.blob(app.image.layers[1])
    good = blob.read_bytes()
    blob.write_bytes(broken(good))
    stacker.refused(5, "pull", app.source, "--jobs", "1")
    stacker.assert_clean(layers=1)
    assert stacker("df", "--json").item["bytes"]["unlisted"] >= 200_001
    blob.write_bytes(good)
    app.blob(app.image.layers[0]).unlink()
    stacker("pull", app.source)
    stacker.assert_clean(images=1, layers=2)
