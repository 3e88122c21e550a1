"""The directory that an image is unpacked into, when unpacking fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stacker.operations.unpack import emptied_on_failure

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="chown needs root")


@needs_root
def test_failed_unpacking_restores_the_directory(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    os.chown(target, 1000, 4711)
    target.chmod(0o2775)
    with pytest.raises(KeyboardInterrupt):
        _interrupt_unpacking(target)
    status = target.stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o2775, 1000, 4711)
    assert os.listdir(target) == []


def _interrupt_unpacking(target: Path) -> None:
    with emptied_on_failure(target):
        os.chown(target, 0, 0)
        target.chmod(0o700)
        (target / "file").touch()
        raise KeyboardInterrupt
