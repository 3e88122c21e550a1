"""Mount every writable driver once, and give each case a new directory in the mount."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stacker.linux.removal import remove_tree
from tests.support.stacks import MEMORY
from tests.support.subjects import (
    KINDS,
    WRITING,
    CaseDirectory,
    Mounted,
    Subject,
    stock,
    unmount_by_force,
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect kinds that are equal for a subject, and cases that do not concern it."""
    wanted: list[pytest.Item] = []
    repeated: list[pytest.Item] = []
    for item in items:
        (repeated if _is_repeated(item) or _is_excused(item) else wanted).append(item)
    items[:] = wanted
    config.hook.pytest_deselected(items=repeated)


def _is_repeated(item: pytest.Item) -> bool:
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return {"mounted", "kind"} <= params.keys() and params["kind"] not in params["mounted"].kinds


def _is_excused(item: pytest.Item) -> bool:
    """Return whether the marks of a case require something that a subject lacks."""
    subject = _subject(item)
    if subject is None:
        return False
    return item.get_closest_marker("about_mounts") is not None and not subject.is_mount


def _subject(item: pytest.Item) -> Subject | None:
    params = item.callspec.params if hasattr(item, "callspec") else {}
    if "mounted" in params:
        subject: Subject = params["mounted"]
        return subject
    shown: dict[str, tuple[Subject, int]] = getattr(getattr(item, "module", None), "SHOWN", {})
    return shown[params["tree"]][0] if "tree" in params and shown else None


@pytest.fixture(scope="session")
def mounts_lock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the lock of `alone_among_mounts`."""
    return tmp_path_factory.getbasetemp().parent / "mounts.lock"


@pytest.fixture(scope="session", params=WRITING, ids=str)
def mounted(request: pytest.FixtureRequest, mounts_lock: Path) -> Iterator[Mounted]:
    """Mount a subject for all cases."""
    if os.geteuid() != 0:
        pytest.skip("mounts, and becomes others: needs root")
    subject: Subject = request.param
    if subject.missing is not None:
        pytest.skip(subject.missing)
    # Unprivileged users must reach it; pytest's own directories are private.
    workspace = Path(tempfile.mkdtemp(dir=MEMORY, prefix="stacker-posix-"))
    workspace.chmod(0o755)
    try:
        (workspace / "target").mkdir()
        if subject.words is not None:
            stock(workspace, subject.form)
        mounted = Mounted(subject, workspace, mounts_lock)
        before = mounted.layers()
        mounted.mount()
        yield mounted
        mounted.unmount()
        assert mounted.layers() == before, "a layer was written to"
    finally:
        unmount_by_force(workspace / "target")
        remove_tree(workspace) if subject.words else shutil.rmtree(workspace)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Return where the files of a case are before it starts."""
    found: str = request.param
    return found


@pytest.fixture
def case(mounted: Mounted, kind: str) -> Iterator[CaseDirectory]:
    """Return a directory with the usual files."""
    before = os.umask(0o022)
    yield mounted.case_directory(kind)
    os.umask(before)
