"""Slices of files and directories: exactly a file's bytes, and regular files only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stacker.errors import IntegrityError, NotFoundError
from stacker.image import mediatype
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest
from stacker.image.document import DOCUMENT_LIMIT
from stacker.source.files import Directory, FileSlice, open_blob_file, read_document_file


def window(path: Path, offset: int, size: int) -> FileSlice:
    """Return a slice of a file."""
    return FileSlice(os.open(path, os.O_RDONLY), offset, size)


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Return a file of ten digits."""
    path = tmp_path / "digits"
    path.write_bytes(b"0123456789")
    return path


@pytest.mark.parametrize(("offset", "size"), [(0, 10), (0, 0), (3, 4), (9, 1), (10, 0)])
def test_slice_ends_at_its_last_byte(digits: Path, offset: int, size: int) -> None:
    expected = b"0123456789"[offset : offset + size]
    with window(digits, offset, size) as file:
        assert file.read() == expected
        assert file.read() == b""
    with window(digits, offset, size) as file:
        assert b"".join(iter(lambda: file.read(3), b"")) == expected
    with window(digits, offset, size) as file:
        buffer = bytearray(20)
        assert file.readinto(buffer) == size
        assert buffer[:size] == expected
        assert buffer[size:] == bytes(20 - size)


def test_slices_do_not_share_a_position(digits: Path) -> None:
    with window(digits, 0, 10) as one, window(digits, 0, 10) as other:
        assert one.read(4) == b"0123"
        assert other.read(2) == b"01"
        assert one.read(1) == b"4"


def test_slice_of_a_changing_file_never_exceeds_its_size(digits: Path) -> None:
    with window(digits, 0, 10) as file:
        digits.write_bytes(b"0123456789abc")
        assert file.read() == b"0123456789"
    with window(digits, 0, 13) as file:
        digits.write_bytes(b"0123")
        assert file.read() == b"0123"


def test_closing_closes_the_descriptor_once(digits: Path) -> None:
    fd = os.open(digits, os.O_RDONLY)
    file = FileSlice(fd, 0, 10)
    file.close()
    file.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    with pytest.raises((OSError, ValueError)):
        file.read(1)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    files = Directory(str(tmp_path), "oci:x")
    with pytest.raises(NotFoundError, match=r"^not found: oci:x: a/b$"):
        files.open("a/b")
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(NotFoundError):
        files.open("a/b")


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_special_file_is_refused_without_blocking(tmp_path: Path, kind: str) -> None:
    if kind == "fifo":
        os.mkfifo(tmp_path / "blob")
    else:
        (tmp_path / "blob").mkdir()
    with pytest.raises(IntegrityError, match="want a regular file"):
        Directory(str(tmp_path), "oci:x").open("blob")


def test_a_document_over_the_limit_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "index.json").open("wb") as file:
        file.truncate(DOCUMENT_LIMIT)
    files = Directory(str(tmp_path), "oci:x")
    assert len(read_document_file(files, "index.json")) == DOCUMENT_LIMIT
    os.truncate(tmp_path / "index.json", DOCUMENT_LIMIT + 1)
    with pytest.raises(IntegrityError, match="document too large: oci:x"):
        read_document_file(files, "index.json")


def test_blob_of_another_size_is_refused_before_reading(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"four")
    files = Directory(str(tmp_path), "oci:x")
    for size in (3, 5):
        with pytest.raises(IntegrityError, match=f"got 4 bytes, want {size}"):
            open_blob_file(files, "blob", Descriptor(mediatype.OCI_LAYER, Digest.of(b"four"), size))
    with open_blob_file(
        files, "blob", Descriptor(mediatype.OCI_LAYER, Digest.of(b"four"), 4)
    ) as blob:
        assert blob.read() == b"four"


def test_missing_foreign_layer_hints_at_its_urls(tmp_path: Path) -> None:
    layer = Descriptor(
        mediatype.OCI_FOREIGN_LAYER, Digest.of(b""), 0, urls=("https://registry.example/layer",)
    )
    with pytest.raises(NotFoundError) as caught:
        open_blob_file(Directory(str(tmp_path), "oci:x"), "blob", layer)
    assert "https://registry.example/layer" in (caught.value.hint or "")
