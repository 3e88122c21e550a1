"""A walk yields every name below a directory, and names the directory that it cannot read."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from stacker.linux.walk import walk


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").write_bytes(b"1")
    return tmp_path


def test_every_name_below_a_directory_is_found(tree: Path) -> None:
    assert {path for path, _ in walk(tree)} == {b"", b"a", b"a/b", b"a/file"}


def test_missing_directory_has_no_names(tree: Path) -> None:
    assert list(walk(tree / "missing")) == []


def test_directory_that_the_disk_cannot_read_is_named(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> NoReturn:
        raise OSError(errno.EIO, "Input/output error", descriptor)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(OSError, match="Input/output error") as caught:
        list(walk(tree))
    assert Path(caught.value.filename) == tree
