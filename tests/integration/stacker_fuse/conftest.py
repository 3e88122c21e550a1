"""Directories for `stacker-fuse`, and the program."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stacker_fuse import StackerFuse
from tests.support.stacks import scratch


@pytest.fixture
def workspace() -> Iterator[Path]:
    with scratch() as directory:
        directory.chmod(0o755)
        for name in ("low", "up", "upper", "work", "target", "other"):
            (directory / name).mkdir()
        fill(directory / "low", directory / "up")
        yield directory


def fill(low: Path, up: Path) -> None:
    """Create two layers with marks that all peers read alike."""
    (low / "d/e").mkdir(parents=True)
    (low / "d/e/deep").write_bytes(b"deep" * 5000)
    (low / "d/gone").touch()
    (low / "kept").write_bytes(b"lower")
    os.link(low / "kept", low / "d/linked")
    (low / "link").symlink_to("kept")
    os.mkfifo(low / "pipe", 0o640)
    os.mknod(low / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chown(low / "d/e/deep", 11, 12)
    (low / "d/e/deep").chmod(0o4751)
    os.setxattr(low / "kept", "user.kind", b"\0\xff")
    (up / "d").mkdir(mode=0o750)
    (up / "d/new").write_bytes(b"upper")
    os.mknod(up / "d/gone", stat.S_IFCHR)


@pytest.fixture
def fuse(workspace: Path) -> Iterator[StackerFuse]:
    program = StackerFuse(workspace)
    yield program
    program.end()
