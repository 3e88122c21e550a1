"""Archives of ``docker save`` in the formats of several engines, and malformed ones."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import zstandard

from stacker.errors import IntegrityError, NotFoundError, UnsupportedError, UsageError
from stacker.image import mediatype
from stacker.image.digest import Digest, ImageID
from stacker.image.manifest import Manifest, parse_document
from stacker.source.docker_archive import DockerArchive, open_docker
from stacker.source.tar_files import open_archive


@pytest.fixture
def saved(tmp_path: Path, write_tar: Any) -> Any:
    """Return a function that creates an archive of members, bytes or JSON, and opens it."""

    def make(members: list[tuple[str, Any]], name: str = "") -> DockerArchive:
        encoded = [
            (n, v if isinstance(v, (bytes, str)) else json.dumps(v).encode()) for n, v in members
        ]
        archive = open_archive(str(write_tar(tmp_path / "a.tar", encoded)), "docker-archive:a")
        source = pickle.loads(pickle.dumps(open_docker(archive, name)))
        assert isinstance(source, DockerArchive)
        return source

    return make


def entry(config: str, layers: list[str], *tags: str) -> dict[str, object]:
    """Return an image of manifest.json; Docker writes null for no tags."""
    return {"Config": config, "RepoTags": list(tags) or None, "Layers": layers}


def manifest_of(source: DockerArchive) -> Manifest:
    """Return the generated manifest."""
    root = source.root()
    manifest = parse_document(source.document(root), media_type=root.media_type, what="m")
    assert isinstance(manifest, Manifest)
    return manifest


def assert_is(source: DockerArchive, image: Any, layers: tuple[bytes, ...] | None = None) -> None:
    """Check that the source serves an image's config and layers as described."""
    manifest = manifest_of(source)
    assert manifest.image_id == ImageID.of(image.config)
    assert source.document(manifest.config) == image.config
    stored = []
    for layer in manifest.layers:
        with source.open_blob(layer) as blob:
            stored.append(blob.read())
            layer.verify(stored[-1], "layer")
    assert tuple(stored) == (layers or image.layers)


def test_old_engine_archive_is_read(saved: Any, make_image: Any) -> None:
    image = make_image(b"one", b"two")
    config = f"{Digest.of(image.config).hex}.json"
    source = saved(
        [
            ("a/", b""),
            ("a/VERSION", b"1.0"),
            ("a/layer.tar", image.layers[0]),
            ("b/layer.tar", image.layers[1]),
            (config, image.config),
            ("manifest.json", [entry(config, ["a/layer.tar", "b/layer.tar"], "app:1.0")]),
            ("repositories", {}),
        ]
    )
    assert_is(source, image)
    assert source.names == ("app:1.0",)
    assert source.root().media_type == mediatype.OCI_MANIFEST
    assert {layer.media_type for layer in manifest_of(source).layers} == {mediatype.OCI_LAYER}


def test_equal_layers_may_be_links(saved: Any, make_image: Any) -> None:
    image = make_image(b"same", b"same", b"other", b"same")
    source = saved(
        [
            ("a/layer.tar", image.layers[0]),
            ("b/layer.tar", "-> ../a/layer.tar"),
            ("c/layer.tar", image.layers[2]),
            ("d/layer.tar", "=> a/layer.tar"),
            ("config.json", image.config),
            ("manifest.json", [entry("config.json", [f"{n}/layer.tar" for n in "abcd"])]),
        ]
    )
    assert_is(source, image)


def test_one_layer_may_be_listed_twice(saved: Any, make_image: Any) -> None:
    image = make_image(b"same", b"same")
    members = [
        ("x.tar", image.layers[0]),
        ("config.json", image.config),
        ("manifest.json", [entry("config.json", ["x.tar", "x.tar"])]),
    ]
    assert_is(saved(members), image)
    assert_is(saved([("x.tar", image.layers[0]), *members]), image)


def test_new_engine_archive_is_read(saved: Any, make_image: Any) -> None:
    image = make_image(b"one", b"two")
    blobs = {name: f"blobs/sha256/{name}" for name in image.blobs}
    layers = [blobs[Digest.of(layer).hex] for layer in image.layers]
    config = blobs[Digest.of(image.config).hex]
    source = saved(
        [
            ("blobs/", b""),
            ("blobs/sha256/", b""),
            *((blobs[name], data) for name, data in image.blobs.items()),
            # Docker 25.0 saved images by digest with no index entries at all.
            ("index.json", {"schemaVersion": 2, "manifests": None}),
            ("manifest.json", [entry(config, layers, "app:1") | {"LayerSources": {}}]),
            ("oci-layout", {"imageLayoutVersion": "1.0.0"}),
        ]
    )
    assert_is(source, image)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize("by_digest", [True, False])
def test_a_compressed_layer_has_the_digest_of_its_compressed_bytes(
    saved: Any, make_image: Any, compression: str, *, by_digest: bool
) -> None:
    compress = gzip.compress if compression == "gzip" else zstandard.compress
    image = make_image(b"one", b"two")
    packed = tuple(compress(layer) for layer in image.layers)
    names = [
        f"blobs/sha256/{Digest.of(data).hex}" if by_digest else f"{number}/layer.tar"
        for number, data in enumerate(packed)
    ]
    source = saved(
        [
            *zip(names, packed, strict=True),
            ("config.json", image.config),
            ("manifest.json", [entry("config.json", names)]),
        ]
    )
    assert_is(source, image, packed)
    kinds = {layer.media_type for layer in manifest_of(source).layers}
    assert kinds == {f"{mediatype.OCI_LAYER}+{compression}"}


def test_file_name_digest_of_a_layer_is_verified_on_read(saved: Any, make_image: Any) -> None:
    image = make_image(b"one")
    packed = gzip.compress(image.layers[0])
    claimed = "0" * 64
    for name, expected in (
        (f"blobs/sha256/{claimed}", claimed),
        (claimed, Digest.of(packed).hex),
        (f"blobs/sha256/{claimed}.tar", Digest.of(packed).hex),
    ):
        listed = [entry("c.json", [name])]
        source = saved([(name, packed), ("c.json", image.config), ("manifest.json", listed)])
        assert manifest_of(source).layers[0].digest.hex == expected


def test_an_image_without_layers_is_legal(saved: Any, make_image: Any) -> None:
    image = make_image()
    no_layers: tuple[list[str] | None, ...] = ([], None)
    for layers in no_layers:
        listed = entry("c.json", []) | {"Layers": layers}
        assert_is(saved([("c.json", image.config), ("manifest.json", [listed])]), image)


def two_images(make_image: Any) -> tuple[Any, Any, list[tuple[str, Any]]]:
    """Return two images, and an archive that has several names for each."""
    one, two = make_image(b"one"), make_image(b"two")
    listed = [
        entry("1.json", ["1.tar"], "app:1.0", "registry.example/team/app:latest"),
        entry("2.json", ["2.tar"], "app:2.0"),
        entry("2.json", ["2.tar"], "registry.example/other/tool:3"),
    ]
    members = [
        *(("1.json", one.config), ("1.tar", one.layers[0])),
        *(("2.json", two.config), ("2.tar", two.layers[0])),
        ("manifest.json", listed),
    ]
    return one, two, members


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("app:1.0", 1),
        ("app:2.0", 2),
        ("registry.example/team/app:latest", 1),
        ("registry.example/team/app", 1),
        ("team/app", 1),
        ("app", 1),
        ("app:latest", 1),
        ("tool:3", 2),
        ("other/tool:3", 2),
        ("@0", 1),
        ("@1", 2),
    ],
)
def test_name_selects_one_image(saved: Any, make_image: Any, name: str, number: int) -> None:
    *images, members = two_images(make_image)
    assert_is(saved(members, name), images[number - 1])


def test_repeated_image_has_all_its_names(saved: Any, make_image: Any) -> None:
    _, _, members = two_images(make_image)
    assert saved(members, "app:2.0").names == ("app:2.0", "registry.example/other/tool:3")
    assert saved(members, "tool:3").names == ("registry.example/other/tool:3", "app:2.0")


@pytest.mark.parametrize("name", ["app:3", "pp:1.0", "tool", "p", "@2", "@-1", "@", "@x", "@²"])
def test_an_unknown_name_is_not_found_and_the_names_are_listed(
    saved: Any, make_image: Any, name: str
) -> None:
    _, _, members = two_images(make_image)
    with pytest.raises(NotFoundError, match=r"no such image: .*'app:1.0', .*'app:2.0', .*want '"):
        saved(members, name)


def test_several_images_and_no_name_is_a_usage_error(saved: Any, make_image: Any) -> None:
    _, _, members = two_images(make_image)
    with pytest.raises(UsageError, match=r"several images: .*'app:1.0', .*'app:2.0'") as caught:
        saved(members)
    assert "@N" in (caught.value.hint or "")


def test_an_abbreviation_of_two_images_is_a_usage_error(saved: Any, make_image: Any) -> None:
    _, _, members = two_images(make_image)
    members[-1] = (
        "manifest.json",
        [entry("1.json", ["1.tar"], "a.example/x:1"), entry("2.json", ["2.tar"], "b.example/x:1")],
    )
    with pytest.raises(UsageError, match="several images"):
        saved(members, "x:1")


def test_complete_name_precedes_an_abbreviation(saved: Any, make_image: Any) -> None:
    one, two, members = two_images(make_image)
    for names, expected in (
        (("a.example/x:latest", "x:latest"), two),
        (("x:latest", "a.example/x:latest"), one),
        (("x:latest", "x"), two),
    ):
        first, second = names
        listed = [entry("1.json", ["1.tar"], first), entry("2.json", ["2.tar"], second)]
        assert_is(saved([*members[:-1], ("manifest.json", listed)], "x"), expected)


def test_an_archive_of_no_image_is_not_found(saved: Any) -> None:
    with pytest.raises(NotFoundError, match="got none, want an image"):
        saved([("manifest.json", [])])


@pytest.mark.parametrize("listed", [[], ["1.tar"], ["1.tar"] * 3])
def test_different_numbers_of_layers_and_diff_ids_are_refused(
    saved: Any, make_image: Any, listed: list[str]
) -> None:
    image = make_image(b"one", b"two")
    members = [
        ("1.tar", image.layers[0]),
        ("c.json", image.config),
        ("manifest.json", [entry("c.json", listed)]),
    ]
    with pytest.raises(IntegrityError) as caught:
        saved(members)
    assert caught.value.message == (
        f"wrong number of layers: image {Digest.of(image.config)}: got {len(listed)} in "
        "manifest.json, want 2 as in the config's diff_ids"
    )


@pytest.mark.parametrize("folder", ["", "blobs/sha256/"])
def test_a_config_under_anothers_digest_is_refused(
    saved: Any, make_image: Any, folder: str
) -> None:
    image = make_image(b"one")
    name = folder + "0" * 64 + ("" if folder else ".json")
    with pytest.raises(IntegrityError, match=r"wrong digest: .*want sha256:0000"):
        saved(
            [
                (name, image.config),
                ("1.tar", image.layers[0]),
                ("manifest.json", [entry(name, ["1.tar"])]),
            ]
        )


@pytest.mark.parametrize(
    ("config", "layer", "error"),
    [
        ("none.json", "1.tar", NotFoundError),
        ("c.json", "none.tar", NotFoundError),
        ("../c.json", "1.tar", IntegrityError),
        ("c.json", "../../1.tar", IntegrityError),
        ("c.json", "loop", IntegrityError),
        ("loop", "1.tar", IntegrityError),
        ("1.tar", "1.tar", IntegrityError),
        ("", "1.tar", NotFoundError),
        ("c.json", "\x1b[2J", NotFoundError),
    ],
)
def test_list_with_missing_files_is_refused(
    saved: Any, make_image: Any, config: str, layer: str, error: type[Exception]
) -> None:
    image = make_image(b"one")
    members = [
        ("c.json", image.config),
        ("1.tar", image.layers[0]),
        ("loop", "-> loop"),
        ("manifest.json", [entry(config, [layer])]),
    ]
    with pytest.raises(error, match="docker-archive:a") as caught:
        saved(members)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "listed",
    [
        {},
        b'"x"',
        [1],
        [{}],
        [{"Config": 1}],
        [{"Config": "c.json", "Layers": "1.tar"}],
        [{"Config": "c.json", "Layers": [1]}],
        [{"Config": "c.json", "Layers": [], "RepoTags": [None]}],
        b"{",
        b"",
        b"[" * 100_000,
        b"[{}, {}",
    ],
)
def test_a_malformed_list_is_refused_in_one_line(saved: Any, listed: Any) -> None:
    with pytest.raises(IntegrityError, match=r"docker-archive:a: manifest.json: ") as caught:
        saved([("c.json", b"{}"), ("manifest.json", listed)])
    assert "\n" not in str(caught.value)


def test_two_different_lists_are_refused(saved: Any, make_image: Any) -> None:
    _, _, members = two_images(make_image)
    with pytest.raises(IntegrityError, match=r"ambiguous archive: .*'manifest.json'"):
        saved([("manifest.json", []), *members], "app:1.0")


def test_archive_without_manifest_json_is_explained(saved: Any) -> None:
    with pytest.raises(UnsupportedError, match=r"want one .Docker 1\.10"):
        saved([("repositories", {}), ("a/layer.tar", b"")])
    with pytest.raises(IntegrityError, match="not a docker archive") as caught:
        saved([("oci-layout", {})])
    assert "oci-archive" in (caught.value.hint or "")
    with pytest.raises(IntegrityError, match="not a docker archive"):
        saved([("etc/passwd", b"")])


def test_a_blob_of_another_image_is_not_found(saved: Any, make_image: Any) -> None:
    _, two, members = two_images(make_image)
    with pytest.raises(NotFoundError, match="blob not found: docker-archive:a: sha256:"):
        saved(members, "app:1.0").open_blob(two.descriptor)
