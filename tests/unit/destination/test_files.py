"""Layouts in directories and in archives can be read back."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from stacker.destination.archive import LayoutArchive
from stacker.destination.open import open_destination
from stacker.destination.protocol import Destination
from stacker.errors import IntegrityError, UsageError
from stacker.events import Transfer
from stacker.image import mediatype
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest
from stacker.registry.settings import RegistryAccess
from stacker.tar.index import read_index
from stacker.tar.write import Member, member_header

BLOB = Descriptor("application/octet-stream", Digest.of(b"blob"), 4)
ROOT = Descriptor(mediatype.OCI_INDEX, Digest.of(b"root"), 4)
FORMS = pytest.mark.parametrize("form", ["oci", "oci-archive"])


def written(place: Destination, content: bytes = b"blob") -> list[Transfer | None]:
    arrivals = [
        place.put_blob(BLOB, opened, report=lambda _: None)
        for opened in (None, lambda: io.BytesIO(content), lambda: io.BytesIO(content))
    ]
    place.finish(ROOT, b"root")
    return arrivals


@FORMS
def test_a_blob_is_written_once(tmp_path: Path, form: str) -> None:
    with open_destination(f"{form}:{tmp_path}/out:name:1", access=RegistryAccess()) as place:
        assert written(place) == [None, Transfer.SENT, Transfer.PRESENT]
    if form == "oci-archive":
        with tarfile.open(tmp_path / "out") as tar:
            files = {m.name: m for m in tar.getmembers()}
            assert {(m.mtime, m.uid, m.mode) for m in files.values()} == {(0, 0, 0o644)}
            tar.extractall(tmp_path / "layout", filter="data")
    layout = tmp_path / ("out" if form == "oci" else "layout")
    assert (layout / "blobs" / "sha256" / BLOB.digest.hex).read_bytes() == b"blob"
    assert json.loads((layout / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "name:1"}
    assert entry["digest"] == str(ROOT.digest)


@FORMS
@pytest.mark.parametrize("content", [b"blab", b"blo", b"blobs"])
def test_wrong_bytes_leave_no_file(tmp_path: Path, form: str, content: bytes) -> None:
    with ExitStack() as held:
        held.enter_context(pytest.raises(IntegrityError))
        written(
            held.enter_context(open_destination(f"{form}:{tmp_path}/out", access=RegistryAccess())),
            content,
        )
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_equal_images_give_equal_archives(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with open_destination(f"oci-archive:{tmp_path}/{name}", access=RegistryAccess()) as place:
            written(place)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_long_member_name_is_read_back() -> None:
    word = b"1" * 100
    long = Descriptor("", Digest("sha512", "ab" * 64), len(word))
    file = io.BytesIO()
    archive = LayoutArchive(file, "", "test")
    archive.put_document(long, word)
    archive.finish(ROOT, b"root")
    names = [m.name.decode() for m in read_index(io.BytesIO(file.getvalue()), "test")]
    assert f"blobs/sha512/{long.digest.hex}" in names


def test_member_of_8_gib_is_read_by_tar(tmp_path: Path) -> None:
    size = (8 << 30) + 5
    path = tmp_path / "large.tar"
    with path.open("wb") as file:
        file.write(member_header(Member(b"blob", b"0", size=size)))
        file.truncate(file.tell() + size + -size % 512 + 1024)
    listed = subprocess.run(
        ["tar", "-tvf", path], check=True, capture_output=True, text=True
    ).stdout
    assert f" {size} " in listed


@pytest.mark.parametrize(
    "text",
    [
        "app:1.0",
        "docker-archive:",
        "oci:",
        "oci-archive:",
        "registry.example/app",
        f"docker://registry.example/app@sha256:{'0' * 64}",
    ],
)
def test_malformed_destination_is_refused(text: str) -> None:
    with pytest.raises(UsageError), open_destination(text, access=RegistryAccess()):
        pytest.fail("it was opened")
