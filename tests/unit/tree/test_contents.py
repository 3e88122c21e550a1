"""Files of an export: ranges of zeros are holes, and holes of the disk are not read."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from stacker.tar.entry import Segment
from stacker.tree.contents import FileOnDisk, data_segments

UNIT = 64 << 10


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.fixture
def large_hole(path: Path) -> Iterator[FileOnDisk]:
    """Yield a file of 8 TiB, which would take an hour to read."""
    with path.open("wb") as file:
        for at in (3 * UNIT + 5, 1 << 42):
            file.seek(at)
            file.write(b"data")
        file.truncate(1 << 43)
    with closing(opened(path)) as file_on_disk:
        yield file_on_disk


def opened(path: Path, size: int | None = None) -> FileOnDisk:
    return FileOnDisk(os.open(path, os.O_RDONLY), path.stat().st_size if size is None else size)


def test_holes_of_the_disk_are_not_read(large_hole: FileOnDisk) -> None:
    assert data_segments(large_hole) == [
        Segment(3 * UNIT, UNIT),
        Segment(1 << 42, UNIT),
        Segment(1 << 43, 0),
    ]


def test_zeros_on_disk_are_the_same_holes(path: Path) -> None:
    contents = bytearray(20 * UNIT)
    contents[3 * UNIT + 5] = contents[18 * UNIT - 1] = contents[18 * UNIT] = 1
    found = []
    for write in (lambda: path.write_bytes(contents), lambda: write_data(path, bytes(contents))):
        path.unlink(missing_ok=True)
        write()
        with closing(opened(path)) as file:
            found.append(data_segments(file))
    assert (
        found[0]
        == found[1]
        == [
            Segment(3 * UNIT, UNIT),
            Segment(17 * UNIT, 2 * UNIT),
            Segment(20 * UNIT, 0),
        ]
    )


def write_data(path: Path, contents: bytes) -> None:
    """Write only the blocks that are not zeros."""
    with path.open("wb") as file:
        for at in range(0, len(contents), 4096):
            if any(contents[at : at + 4096]):
                file.seek(at)
                file.write(contents[at : at + 4096])
        file.truncate(len(contents))


@pytest.mark.parametrize("left", [0, 5 * UNIT])
def test_shrunk_file_is_an_error(path: Path, left: int) -> None:
    path.write_bytes(b"x" * left)
    with closing(opened(path, size=20 * UNIT)) as file, pytest.raises(OSError) as caught:
        data_segments(file)
    assert caught.value.errno == errno.EIO
