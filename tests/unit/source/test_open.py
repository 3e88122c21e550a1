"""Sources that a user can name."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from stacker.errors import (
    IntegrityError,
    NotFoundError,
    StackerError,
    UsageError,
)
from stacker.image.digest import Digest
from stacker.source.open import open_source

NAME = "registry.example:5000/team/app:1.0"


@pytest.fixture
def layout(make_image: Any) -> list[tuple[str, bytes | str]]:
    """Return the files of a layout of one image named `NAME`."""
    image = make_image(b"one")
    entry = image.descriptor.to_json()
    entry["annotations"] = {"org.opencontainers.image.ref.name": NAME}
    index = {"schemaVersion": 2, "manifests": [entry]}
    return [
        ("oci-layout", b'{"imageLayoutVersion": "1.0.0"}'),
        ("index.json", json.dumps(index).encode()),
        *((f"blobs/sha256/{name}", data) for name, data in image.blobs.items()),
    ]


@pytest.fixture
def here(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_tar: Any,
    make_image: Any,
    layout: list[tuple[str, bytes | str]],
) -> Path:
    """Return a working directory with a layout and archives of the same image."""
    monkeypatch.chdir(tmp_path)
    for name, data in layout:
        assert isinstance(data, bytes)
        (tmp_path / "layout" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "layout" / name).write_bytes(data)
    write_tar(tmp_path / "oci.tar", layout)
    image = make_image(b"one")
    listed = [{"Config": "c.json", "RepoTags": [NAME], "Layers": ["1.tar"]}]
    write_tar(
        tmp_path / "saved.tar",
        [
            ("c.json", image.config),
            ("1.tar", image.layers[0]),
            ("manifest.json", json.dumps(listed).encode()),
        ],
    )
    for name in ("oci.tar", "saved.tar"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    (tmp_path / "spool").mkdir()
    return tmp_path


SOURCES = ["oci:layout", "oci-archive:oci.tar", "docker-archive:saved.tar"]
SOURCES += ["oci-archive:oci.tar.gz", "docker-archive:saved.tar.gz"]


@pytest.mark.parametrize("place", SOURCES)
@pytest.mark.parametrize("rest", ["", ":", f":{NAME}", ":@0"])
def test_the_path_ends_at_the_first_colon(here: Path, place: str, rest: str) -> None:
    with open_source(place + rest, spool=here / "spool") as source:
        assert source.names == (NAME,)
        assert source.document(source.root())
    assert not list((here / "spool").iterdir())


@pytest.mark.parametrize("place", SOURCES)
def test_pickled_source_works_in_another_directory(
    here: Path, place: str, make_image: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make_image(b"one")
    with open_source(place, spool=here / "spool") as source:
        copy = pickle.loads(pickle.dumps(source))
        monkeypatch.chdir("/")
        manifest = json.loads(copy.document(copy.root()))
        assert manifest["config"]["digest"] == str(Digest.of(image.config))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "image.tar",
        "./layout",
        "oci",
        "docker-archive",
        "ocii:x",
        "OCI:x",
        "dir:x",
        ":x",
        "a b:c",
    ],
)
def test_an_unknown_transport_is_a_usage_error_with_examples(here: Path, text: str) -> None:
    with pytest.raises(UsageError, match="unknown transport: ") as caught:
        open_source(text, spool=here)
    for transport in ("oci:", "oci-archive:", "docker-archive:"):
        assert transport in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["oci:", "oci::t", "docker-archive:", "oci-archive::x", "oci:\0"])
def test_a_source_needs_a_path(here: Path, text: str) -> None:
    with pytest.raises(UsageError, match="no path: "):
        open_source(text, spool=here)


@pytest.mark.parametrize("text", ["docker://", "docker://App", "docker://registry.example/"])
def test_an_image_in_a_registry_needs_a_repository(here: Path, text: str) -> None:
    with pytest.raises(UsageError, match="malformed reference: "), open_source(text, spool=here):
        pytest.fail("it was opened")


def test_a_registry_is_written_with_two_slashes(here: Path) -> None:
    with pytest.raises(UsageError, match="unknown transport: "):
        open_source("docker:registry.example/app", spool=here)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("oci:none", NotFoundError),
        ("oci:oci.tar", UsageError),
        ("oci-archive:none", NotFoundError),
        ("docker-archive:none/x", NotFoundError),
        ("oci-archive:layout", UsageError),
        ("oci-archive:saved.tar", UsageError),
        ("docker-archive:oci.tar", UsageError),
        ("docker-archive:layout/index.json", IntegrityError),
        ("oci:spool", IntegrityError),
        ("oci:layout:none", NotFoundError),
        ("docker-archive:saved.tar:none", NotFoundError),
        ("docker-archive:saved.tar.gz:none", NotFoundError),
    ],
)
def test_wrong_location_is_one_line_and_leaves_nothing_behind(
    here: Path, text: str, error: type[StackerError]
) -> None:
    with pytest.raises(error) as caught, open_source(text, spool=here / "spool"):
        pytest.fail("it was opened")
    assert type(caught.value) is error
    assert ":".join(text.split(":")[:2]) in caught.value.message
    assert caught.value.message.isprintable()
    assert not list((here / "spool").iterdir())
