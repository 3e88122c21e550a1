"""A writable tree over two layers, and the state of its upper directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.writable import LONG_AGO, Writable


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    lower = tmp_path / "lower"
    (lower / "d/e").mkdir(parents=True)
    (lower / "file").write_bytes(b"lower")
    os.link(lower / "file", lower / "d/second")
    (lower / "d/e/deep").write_bytes(b"deep" * 1000)
    (lower / "link").symlink_to("/etc")
    os.mkfifo(lower / "pipe")
    os.setxattr(lower / "d", "user.kind", b"d")
    os.chown(lower / "d/e", 7, 8)
    (lower / "d/e").chmod(0o2751)
    for above, directories, files in os.walk(lower):
        for name in (*directories, *files, "."):
            os.utime(Path(above, name), (LONG_AGO, LONG_AGO), follow_symlinks=False)
    return tmp_path


@pytest.fixture
def tree(workspace: Path) -> Iterator[Writable]:
    tree = Writable(workspace)
    yield tree
    tree.close()
