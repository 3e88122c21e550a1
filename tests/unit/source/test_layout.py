"""OCI image layouts: which entry a tag selects, and malformed layouts.

Every test runs on a directory and on an archive: a layout is the same in both.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stacker.errors import IntegrityError, NotFoundError, UnsupportedError, UsageError
from stacker.image import mediatype
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest
from stacker.image.document import DOCUMENT_LIMIT
from stacker.image.manifest import Index, Manifest, parse_document
from stacker.image.platform import Platform
from stacker.source.files import Directory, FileTree
from stacker.source.layout import Layout, open_layout
from stacker.source.tar_files import open_archive

REF_NAME = "org.opencontainers.image.ref.name"
IMAGE_NAME = "io.containerd.image.name"
MARKER = b'{"imageLayoutVersion": "1.0.0"}'


@pytest.fixture(params=["directory", "archive", "archive with ./"])
def files_of(request: pytest.FixtureRequest, tmp_path: Path, write_tar: Any) -> Any:
    """Return a function that creates a tree of files from names and contents."""

    def make(content: dict[str, bytes]) -> FileTree:
        if request.param == "directory":
            for name, data in content.items():
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).write_bytes(data)
            return Directory(str(tmp_path), "oci:x")
        start = "./" if "./" in request.param else ""
        members = [(start + name, data) for name, data in content.items()]
        return open_archive(str(write_tar(tmp_path / "x.tar", members)), "oci:x")

    return make


@pytest.fixture
def layout_of(files_of: Any) -> Any:
    """Return a function that creates a layout; keywords replace files."""

    def make(entries: list[Descriptor], blobs: dict[str, bytes], **changes: bytes) -> FileTree:
        index = Index(mediatype.OCI_INDEX, tuple(entries)).to_json()
        content = {"oci-layout": MARKER, "index.json": json.dumps(index).encode()}
        content |= {f"blobs/sha256/{name}": data for name, data in blobs.items()}
        content |= {name.replace("_", "-"): data for name, data in changes.items()}
        files: FileTree = files_of(content)
        return files

    return make


def entry(
    content: bytes, name: str = "", *, platform: str = "", image_name: str = ""
) -> Descriptor:
    """Return an index entry for a manifest with these bytes."""
    names = {REF_NAME: name, IMAGE_NAME: image_name}
    return Descriptor(
        mediatype.OCI_MANIFEST,
        Digest.of(content),
        len(content),
        Platform(*platform.split("/")) if platform else None,
        {annotation: value for annotation, value in names.items() if value},
    )


A, B, C = (entry(name) for name in (b"a", b"b", b"c"))


def test_every_blob_of_an_image_is_readable(layout_of: Any, make_image: Any) -> None:
    image = make_image(b"one", b"two")
    source = open_layout(layout_of([image.descriptor], image.blobs), "")
    source = pickle.loads(pickle.dumps(source))
    assert source.root() == image.descriptor
    manifest = parse_document(source.document(source.root()), media_type=None, what="m")
    assert isinstance(manifest, Manifest)
    assert source.document(manifest.config) == image.config
    for layer, data in zip(manifest.layers, image.layers, strict=True):
        with source.open_blob(layer) as blob:
            assert blob.read() == data
    assert source.names == ()


@pytest.mark.parametrize(
    ("tag", "number"),
    [
        ("1.0", 0),
        ("team/app:2.0", 1),
        ("registry.example/app:3", 2),
        ("3", 2),
        ("@0", 0),
        ("@2", 2),
        ("@3", 3),
    ],
)
def test_tag_selects_its_entry(layout_of: Any, tag: str, number: int) -> None:
    entries = [
        entry(b"a", "1.0"),
        entry(b"b", "team/app:2.0"),
        entry(b"c", "3", image_name="registry.example/app:3"),
        entry(b"d"),
    ]
    assert open_layout(layout_of(entries, {}), tag).root() == entries[number]


def test_ref_name_precedes_containerd_s_name(layout_of: Any) -> None:
    entries = [entry(b"a", "other", image_name="name"), entry(b"b", "name")]
    assert open_layout(layout_of(entries, {}), "name").root() == entries[1]


def test_names_of_an_image_are_listed_full_name_first(layout_of: Any) -> None:
    entries = [
        entry(b"a", "1.0", image_name="registry.example/app:1.0"),
        entry(b"a", "latest"),
        entry(b"a", "1.0"),
    ]
    source = open_layout(layout_of(entries, {}), "")
    assert source.names == ("registry.example/app:1.0", "1.0", "latest")
    assert source.root().digest == Digest.of(b"a")


@pytest.mark.parametrize("tag", ["nothing", "1", "1.0 ", "@4", "@-1", "@x", "@", "@" + "9" * 5000])
def test_an_unknown_tag_is_not_found_and_the_tags_are_listed(layout_of: Any, tag: str) -> None:
    files = layout_of([entry(b"a", "1.0"), entry(b"b", "2.0"), C, entry(b"d", "1.0")], {})
    with pytest.raises(NotFoundError) as caught:
        open_layout(files, tag)
    assert caught.value.message.startswith(
        "no such image: oci:x: got '1.0', '2.0', 1 without a name, want '"
    )
    assert len(caught.value.message) < 300


def test_empty_layout_has_no_image(layout_of: Any) -> None:
    with pytest.raises(NotFoundError, match="no such image: oci:x: got none, want an image"):
        open_layout(layout_of([], {}), "")


@pytest.mark.parametrize(
    "entries",
    [
        [entry(b"a", "1"), entry(b"b", "2")],
        [A, B],
        [entry(b"a", "1"), B],
        [entry(b"a", platform="linux/amd64"), B],
        [entry(b"a", platform="linux/amd64"), entry(b"b", platform="linux/amd64")],
        [
            entry(b"a", "1", platform="linux/amd64"),
            entry(b"b", "2", platform="linux/arm64"),
        ],
        [entry(b"a", "1", platform="linux/amd64"), entry(b"b", platform="linux/arm64")],
    ],
)
def test_several_images_and_no_tag_is_a_usage_error(
    layout_of: Any, entries: list[Descriptor]
) -> None:
    with pytest.raises(UsageError, match=r"several images: oci:x: got .*, want one") as caught:
        open_layout(layout_of(entries, {}), "")
    assert caught.value.hint


@pytest.mark.parametrize("tag", ["", "1.0"])
def test_platforms_with_one_name_form_an_index(layout_of: Any, tag: str) -> None:
    images = [
        entry(b"a", "1.0", platform="linux/amd64"),
        entry(b"b", "1.0", platform="linux/arm64"),
    ]
    others = [entry(b"c", "2.0", platform="linux/amd64")] if tag else []
    source = open_layout(layout_of(images + others, {}), tag)
    root = source.root()
    assert root.media_type == mediatype.OCI_INDEX
    index = parse_document(source.document(root), media_type=root.media_type, what="index")
    assert isinstance(index, Index)
    assert list(index.manifests) == images
    assert source.names == ("1.0",)


def test_platforms_without_a_name_form_an_index(layout_of: Any) -> None:
    images = [entry(b"a", platform="linux/amd64"), entry(b"b", platform="linux/arm64")]
    assert open_layout(layout_of(images, {}), "").root().media_type == mediatype.OCI_INDEX


def test_attestations_and_artifacts_beside_an_image_are_skipped(layout_of: Any) -> None:
    image = entry(b"a", "1.0", platform="linux/amd64")
    attestation = entry(b"b", "1.0", platform="unknown/unknown")
    artifact = Descriptor("application/vnd.example+json", Digest.of(b"c"), 1)
    assert open_layout(layout_of([attestation, artifact, image], {}), "").root() == image
    assert open_layout(layout_of([artifact], {}), "").root() == artifact


def test_nested_index_is_the_root_unchanged(layout_of: Any) -> None:
    nested = Descriptor(
        mediatype.OCI_INDEX, Digest.of(b"i"), 1, annotations={IMAGE_NAME: "app:1", REF_NAME: "1"}
    )
    assert open_layout(layout_of([nested], {}), "").root() == nested


def test_an_embedded_document_needs_no_blob(layout_of: Any) -> None:
    descriptor = Descriptor.embedding(mediatype.OCI_MANIFEST, b"{}")
    source = open_layout(layout_of([descriptor], {}), "")
    assert source.document(source.root()) == b"{}"


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (None, "blob not found: oci:x"),
        (b"ab", "wrong size: oci:x: sha256:.*got 2 bytes, want 1"),
        (b"", "wrong size: oci:x: sha256:.*got 0 bytes, want 1"),
        (b"b", "wrong digest: oci:x: sha256:"),
    ],
)
def test_document_is_verified(layout_of: Any, stored: bytes | None, message: str) -> None:
    blobs = {} if stored is None else {A.digest.hex: stored}
    source: Layout = open_layout(layout_of([A], blobs), "")
    with pytest.raises((IntegrityError, NotFoundError), match=message):
        source.document(A)


def test_a_document_over_the_limit_is_refused_unread(layout_of: Any) -> None:
    large = Descriptor(mediatype.OCI_MANIFEST, Digest.of(b""), DOCUMENT_LIMIT + 1)
    source: Layout = open_layout(layout_of([large], {}), "")
    with pytest.raises(IntegrityError, match="document too large: oci:x: sha256:"):
        source.document(large)


def test_blob_of_another_algorithm_has_its_own_directory(files_of: Any) -> None:
    import hashlib

    digest = Digest("sha512", hashlib.sha512(b"a").hexdigest())
    descriptor = Descriptor(mediatype.OCI_MANIFEST, digest, 1)
    index = Index(mediatype.OCI_INDEX, (descriptor,)).to_json()
    files = files_of(
        {
            "oci-layout": MARKER,
            "index.json": json.dumps(index).encode(),
            f"blobs/sha512/{digest.hex}": b"a",
        }
    )
    assert open_layout(files, "").document(descriptor) == b"a"


def test_directory_without_the_marker_is_refused(files_of: Any) -> None:
    with pytest.raises(IntegrityError, match="not an OCI image layout: oci:x"):
        open_layout(files_of({"index.json": b"{}"}), "")


@pytest.mark.parametrize(
    ("marker", "error"),
    [
        (b'{"imageLayoutVersion": "2.0.0"}', UnsupportedError),
        (b'{"imageLayoutVersion": 1}', IntegrityError),
        (b"{}", IntegrityError),
        (b"", IntegrityError),
        (b"[]", IntegrityError),
    ],
)
def test_another_layout_version_is_refused(
    layout_of: Any, marker: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error, match="oci:x"):
        open_layout(layout_of([A], {}, oci_layout=marker), "")


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"schemaVersion": 2}',
        b'{"schemaVersion": 2, "manifests": [1]}',
        b'{"schemaVersion": 2, "manifests": [{"digest": "sha256:../../x"}]}',
        b"[" * 100_000,
        b" " * (DOCUMENT_LIMIT + 1),
    ],
)
def test_a_malformed_index_is_refused_in_one_line(layout_of: Any, index: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"oci:x: '?index.json") as caught:
        open_layout(layout_of([A], {}, **{"index.json": index}), "")
    assert "\n" not in caught.value.message


def test_an_index_that_is_a_manifest_is_refused(layout_of: Any, make_image: Any) -> None:
    files = layout_of([A], {}, **{"index.json": make_image(b"x").manifest})
    with pytest.raises(IntegrityError, match="got a manifest, want an index"):
        open_layout(files, "")


def test_a_layout_without_an_index_is_refused(files_of: Callable[..., FileTree]) -> None:
    with pytest.raises(NotFoundError, match=r"not found: oci:x: '?index.json"):
        open_layout(files_of({"oci-layout": MARKER}), "")
