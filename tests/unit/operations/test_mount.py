"""A directory that an image is unpacked into, when that fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stacker.operations.mount import _filling

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory away: needs root")


@needs_root
def test_a_directory_that_could_not_be_filled_is_left_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    os.chown(target, 1000, 4711)
    target.chmod(0o2775)
    with pytest.raises(KeyboardInterrupt):
        _begin_to_fill(target)
    status = target.stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o2775, 1000, 4711)
    assert os.listdir(target) == []


def _begin_to_fill(target: Path) -> None:
    with _filling(target):
        os.chown(target, 0, 0)
        target.chmod(0o700)
        (target / "file").touch()
        raise KeyboardInterrupt
