"""Mounts of two directories, made by the functions of `stacker.mount`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stacker.linux import mountinfo
from stacker.linux.removal import remove_tree
from stacker.mount.plan import MountRequest, StackedImage
from stacker.mount.table import Table
from tests.support.bench import image_of
from tests.support.mounts import unmount_below
from tests.support.unprivileged import IMPORT_PATH

if TYPE_CHECKING:
    from collections.abc import Iterator


USER_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


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


def request(
    place: Path, *, driver: str = "auto", read_only: bool = True, upper: Path | None = None
) -> MountRequest:
    return MountRequest(place / "target", driver, read_only, upper)


def image(place: Path, *more: Path) -> StackedImage:
    return image_of(place / "layers/upper", place / "layers/lower", *more)


def table(place: Path) -> Table:
    return Table(place / "mounts")


def nothing_is_left(place: Path) -> bool:
    directories = place / "mounts"
    return (
        mountinfo.read().below(place) == []
        and (not directories.exists() or os.listdir(directories) == [])
        and os.listdir(place / "target") == []
        and sorted(os.listdir(place)) in (["layers", "target"], ["layers", "mounts", "target"])
    )
