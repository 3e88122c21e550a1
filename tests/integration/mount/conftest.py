"""Mounts of two directories, made by the functions of `stacker.mount`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stacker.linux.removal import remove_tree
from tests.support.mounts import unmount_below
from tests.support.unprivileged import IMPORT_PATH

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", IMPORT_PATH)


@pytest.fixture
def place() -> Iterator[Path]:
    """Yield a directory that an unprivileged user can own; pytest's tmp_path is not accessible."""
    path = Path(tempfile.mkdtemp(prefix="stacker test "))
    path.chmod(0o755)
    for name in ("layers/lower", "layers/upper", "target"):
        (path / name).mkdir(parents=True)
    (path / "layers/lower/both").write_text("lower")
    (path / "layers/lower/kept").write_text("lower")
    (path / "layers/upper/both").write_text("upper")
    yield path
    unmount_below(path)
    remove_tree(path)
