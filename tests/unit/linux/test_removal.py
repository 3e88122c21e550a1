"""Removal of deep, locked, linked and mounted trees."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stacker.linux.removal import remove_contents, remove_tree
from tests.support.unprivileged import UNPRIVILEGED

if TYPE_CHECKING:
    from collections.abc import Iterator

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can mount or change to another user"
)
REMOVE = "import sys, pathlib; from stacker.linux.removal import *; "


@pytest.fixture
def public() -> Iterator[Path]:
    """Return a directory that every user can reach, unlike pytest's own."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


def deep_tree(top: Path, depth: int) -> None:
    """Make a tree whose deepest path is longer than PATH_MAX."""
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("directory", dir_fd=here)
        below = os.open("directory", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


def test_tree_with_every_file_type_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "c").mkdir()
    (top / "a" / "b" / "file").write_bytes(b"x")
    (top / "a" / "name\n\udcff").write_bytes(b"x")
    os.mkfifo(top / "fifo")
    (top / "dangling").symlink_to("nowhere")
    remove_tree(top)
    assert list(tmp_path.iterdir()) == []


def test_symlinks_are_removed_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"x")
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "link").symlink_to(outside)
    remove_tree(tmp_path / "top")
    assert (outside / "file").read_bytes() == b"x"
    (tmp_path / "link").symlink_to(outside)
    with pytest.raises(NotADirectoryError):
        remove_tree(tmp_path / "link")
    assert (outside / "file").read_bytes() == b"x"


def test_remove_contents_keeps_the_directory(tmp_path: Path) -> None:
    (tmp_path / "top" / "a").mkdir(parents=True)
    remove_contents(tmp_path / "top")
    assert list((tmp_path / "top").iterdir()) == []


def test_deep_tree_needs_one_descriptor(tmp_path: Path) -> None:
    depth = 2 * sys.getrecursionlimit()
    deep_tree(tmp_path / "deep", depth)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = max(map(int, os.listdir("/proc/self/fd")))  # pytest and its plugins have open files
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 16, limits[1]))
    try:
        remove_tree(tmp_path / "deep")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not (tmp_path / "deep").exists()


def test_missing_tree_is_an_error_without_missing_ok(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        remove_tree(tmp_path / "missing")
    assert str(tmp_path / "missing") in str(caught.value)
    remove_tree(tmp_path / "missing", missing_ok=True)


def test_file_is_not_a_tree(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(NotADirectoryError):
        remove_tree(tmp_path / "file")
    assert (tmp_path / "file").exists()


@needs_root
def test_directories_without_permissions_are_removed_by_their_owner(
    public: Path, unprivileged_python: str
) -> None:
    make = "import os; os.makedirs('t/a/b'); open('t/a/b/f','w'); os.symlink('x', 't/a/l'); "
    shut = "[os.chmod(d, m) for d, m in (('t/a/b', 0), ('t/a', 0o500), ('t', 0))]; "
    code = REMOVE + make + shut + "remove_tree(pathlib.Path('t'))"
    subprocess.run([*UNPRIVILEGED, unprivileged_python, "-c", code], cwd=public, check=True)
    assert list(public.iterdir()) == []


@needs_root
def test_another_user_gets_an_error_with_the_path(public: Path, unprivileged_python: str) -> None:
    (public / "top" / "inner").mkdir(parents=True)
    (public / "top").chmod(0o777)
    (public / "top" / "inner" / "file").write_bytes(b"x")
    code = REMOVE + "remove_tree(pathlib.Path(sys.argv[1]))"
    done = subprocess.run(
        [*UNPRIVILEGED, unprivileged_python, "-c", code, public / "top"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert "PermissionError" in done.stderr
    assert str(public / "top" / "inner" / "file") in done.stderr


@needs_root
@pytest.mark.parametrize("bound", ["top", "top/inner"])
def test_mount_in_the_tree_prevents_the_removal(tmp_path: Path, bound: str) -> None:
    precious, top = tmp_path / "precious", tmp_path / "top"
    (top / "inner").mkdir(parents=True)
    (top / "file").write_bytes(b"x")
    precious.mkdir()
    (precious / "file").write_bytes(b"x")
    subprocess.run(["mount", "--bind", precious, tmp_path / bound], check=True)
    try:
        with pytest.raises(OSError, match="mounted here"):
            remove_tree(top)
        assert (precious / "file").exists()
    finally:
        subprocess.run(["umount", tmp_path / bound], check=True)
    assert (top / "file").exists()
