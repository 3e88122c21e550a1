"""Image configs, the pairing of blobs with diff_ids, and chain IDs."""

from __future__ import annotations

import hashlib
import json

import pytest

from stacker.errors import IntegrityError, UnsupportedError
from stacker.image import mediatype
from stacker.image.config import (
    Execution,
    History,
    ImageConfig,
    chain_ids,
    pair_layers,
    parse_config,
)
from stacker.image.descriptor import Descriptor
from stacker.image.digest import ChainID, DiffID, Digest
from stacker.image.manifest import Manifest
from stacker.image.platform import Platform

LAYERS = (DiffID.of(b"a"), DiffID.of(b"b"))


def config(**changes: object) -> bytes:
    """Return a config of two layers; a change to ... drops the field."""
    members: dict[str, object] = {
        "os": "linux",
        "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [str(layer) for layer in LAYERS]},
    } | changes
    return json.dumps({k: v for k, v in members.items() if v is not ...}).encode()


def test_minimal_config_is_read() -> None:
    assert parse_config(config(), "config") == ImageConfig(Platform("linux", "amd64"), LAYERS)


def test_every_field_is_read() -> None:
    read = parse_config(
        config(
            created="2024-01-01T00:00:00Z",
            author="somebody",
            variant="v3",
            history=[
                {"created": "2024-01-01T00:00:00Z", "created_by": "ADD", "author": "a"},
                {"comment": "c", "empty_layer": True},
            ],
            config={
                "User": "1000:1000",
                "Env": ["PATH=/bin", "EMPTY="],
                "Entrypoint": ["/bin/sh", "-c"],
                "Cmd": ["true"],
                "WorkingDir": "/srv",
                "Labels": {"k": "v"},
                "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
                "Volumes": {"/data": {}},
                "StopSignal": "SIGTERM",
            },
        ),
        "config",
    )
    assert read == ImageConfig(
        Platform("linux", "amd64", "v3"),
        LAYERS,
        (
            History("2024-01-01T00:00:00Z", "ADD", "a"),
            History(comment="c", empty_layer=True),
        ),
        "2024-01-01T00:00:00Z",
        "somebody",
        Execution(
            "1000:1000",
            ("PATH=/bin", "EMPTY="),
            ("/bin/sh", "-c"),
            ("true",),
            "/srv",
            {"k": "v"},
            ("80/tcp", "53/udp"),
            ("/data",),
            "SIGTERM",
        ),
    )


def test_null_counts_as_absent_where_docker_writes_it() -> None:
    nothing = dict.fromkeys(
        ["User", "Env", "Entrypoint", "Cmd", "WorkingDir", "Labels", "ExposedPorts", "Volumes"]
    )
    read = parse_config(config(history=None, created=None, config=nothing), "config")
    assert read == parse_config(config(config=None), "config") == parse_config(config(), "config")


def test_string_is_a_command_of_one_word() -> None:
    read = parse_config(config(config={"Cmd": "/bin/sh", "Entrypoint": "x"}), "config")
    assert read.execution.cmd == ("/bin/sh",)
    assert read.execution.entrypoint == ("x",)


@pytest.mark.parametrize("diff_ids", [[], None])
def test_an_image_without_layers_is_legal(diff_ids: object) -> None:
    raw = config(rootfs={"type": "layers", "diff_ids": diff_ids})
    assert parse_config(raw, "config").diff_ids == ()


def test_a_diff_id_may_occur_twice() -> None:
    raw = config(rootfs={"type": "layers", "diff_ids": [str(LAYERS[0])] * 2})
    assert parse_config(raw, "config").diff_ids == (LAYERS[0], LAYERS[0])


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"rootfs": ...}, "rootfs: got nothing"),
        ({"rootfs": []}, "rootfs: got a list"),
        ({"rootfs": {"diff_ids": []}}, "rootfs: type: got nothing"),
        ({"rootfs": {"type": "layers", "diff_ids": "x"}}, "rootfs: diff_ids: got 'x'"),
        ({"rootfs": {"type": "layers", "diff_ids": [5]}}, "rootfs: diff_ids: got 5"),
        ({"rootfs": {"type": "layers", "diff_ids": ["x"]}}, "rootfs: diff_ids[0]: DiffID: got 'x'"),
        ({"os": ...}, "os: got nothing"),
        ({"architecture": 64}, "architecture: got 64"),
        ({"history": {}}, "history: got an object"),
        ({"history": [1]}, "history[0]: got 1"),
        ({"history": [{"empty_layer": 1}]}, "history[0]: empty_layer: got 1"),
        ({"config": []}, "config: got a list"),
        ({"config": {"Env": {}}}, "config: Env: got an object"),
        ({"config": {"Env": [None]}}, "config: Env: got None"),
        ({"config": {"Cmd": 1}}, "config: Cmd: got 1"),
        ({"config": {"Labels": {"a": 1}}}, "config: Labels: 'a': got 1"),
        ({"config": {"User": 0}}, "config: User: got 0"),
        ({"created": 0}, "created: got 0"),
    ],
)
def test_wrong_field_is_refused_with_its_position(change: dict[str, object], place: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        parse_config(config(**change), "conf")
    assert caught.value.message.startswith(f"conf: {place}")


def test_another_kind_of_rootfs_is_unsupported() -> None:
    with pytest.raises(UnsupportedError, match="type: got 'layers\\+base', want 'layers'"):
        parse_config(config(rootfs={"type": "layers+base", "diff_ids": []}), "config")


CONFIG = Descriptor(mediatype.OCI_CONFIG, Digest.of(b"{}"), 2)


def image(layers: int, diff_ids: int) -> tuple[Manifest, ImageConfig]:
    """Return a manifest and a config with these numbers of layers."""
    blobs = tuple(Descriptor(mediatype.OCI_LAYER, Digest.of(b"%d" % n), 1) for n in range(layers))
    names = tuple(DiffID.of(b"tar %d" % n) for n in range(diff_ids))
    return (
        Manifest(mediatype.OCI_MANIFEST, CONFIG, blobs),
        ImageConfig(Platform("linux", "amd64"), names),
    )


@pytest.mark.parametrize("count", [0, 1, 3])
def test_layers_are_paired_by_position(count: int) -> None:
    manifest, config = image(count, count)
    pairs = pair_layers(manifest, config)
    assert [pair[0] for pair in pairs] == list(manifest.layers)
    assert [pair[1] for pair in pairs] == list(config.diff_ids)


@pytest.mark.parametrize(("layers", "diff_ids"), [(0, 1), (1, 0), (2, 3), (3, 2)])
def test_different_numbers_of_layers_are_refused(layers: int, diff_ids: int) -> None:
    with pytest.raises(IntegrityError) as caught:
        pair_layers(*image(layers, diff_ids))
    assert caught.value.message == (
        f"wrong number of layers: image {CONFIG.digest}: got {layers} in the manifest, "
        f"want {diff_ids} as in the config's diff_ids"
    )


A, B, C = (DiffID.of(name) for name in (b"a", b"b", b"c"))


def test_image_without_layers_has_no_chain_id() -> None:
    assert chain_ids(()) == ()


def test_the_lowest_chain_id_is_its_diff_id() -> None:
    assert chain_ids([A]) == (ChainID.recast(A),)


def test_chain_id_is_the_digest_of_the_one_below_and_the_layer() -> None:
    second = "sha256:" + hashlib.sha256(f"{A} {B}".encode()).hexdigest()
    third = "sha256:" + hashlib.sha256(f"{second} {C}".encode()).hexdigest()
    assert [str(chain) for chain in chain_ids([A, B, C])] == [str(A), second, third]


def test_chain_ids_match_a_known_example() -> None:
    # Computed with sha256sum(1): printf 'sha256:%064d sha256:%064d' 0 1.
    diff_ids = [DiffID("sha256", "0" * 64), DiffID("sha256", "0" * 63 + "1")]
    assert (
        chain_ids(diff_ids)[1].hex
        == "cc499ad2349cbec7bc911a381418fb111682b861b434a7a72e14bed13d42e848"
    )
