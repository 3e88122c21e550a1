"""Paths are walked by descriptor, and another user's symlinks are not followed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stacker.linux import safe_path

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change an owner")


def opened(path: Path, *, follow: bool = False) -> Path:
    descriptor = safe_path.open_directory(path, follow=follow)
    try:
        return Path(os.readlink(f"/proc/self/fd/{descriptor}"))
    finally:
        os.close(descriptor)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "relative").symlink_to("real")
    (tmp_path / "absolute").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "up").symlink_to("..")
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize("name", ["relative/inner", "absolute/inner", "real/up/real/inner"])
def test_symlinks_of_the_caller_are_followed_on_request(tree: Path, name: str) -> None:
    assert opened(tree / name, follow=True) == tree / "real" / "inner"
    assert safe_path.resolve(tree / name) == tree / "real" / "inner"


@pytest.mark.parametrize("name", ["relative", "relative/inner", "real/up", "file"])
def test_a_symlink_anywhere_on_the_path_is_not_a_directory(tree: Path, name: str) -> None:
    with pytest.raises(NotADirectoryError) as caught:
        opened(tree / name)
    assert caught.value.filename == str(tree / name)


@pytest.mark.parametrize("name", ["real/../relative/./inner", "missing/x", "file", "relative/new"])
def test_resolve_equals_realpath(tree: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    for path in (Path(name), tree / name):
        assert safe_path.resolve(path) == Path(os.path.realpath(path))


def test_a_loop_and_a_missing_component_are_errors(tree: Path) -> None:
    with pytest.raises(OSError, match="Too many levels"):
        safe_path.resolve(tree / "loop")
    with pytest.raises(FileNotFoundError):
        safe_path.resolve(tree / "missing", strict=True)


@needs_root
@pytest.mark.parametrize("name", ["relative/inner", "absolute"])
def test_a_symlink_of_another_user_is_refused(tree: Path, name: str) -> None:
    os.lchown(tree / name.partition("/")[0], 65534, 65534)
    for action in (lambda p: opened(p, follow=True), safe_path.resolve):
        with pytest.raises(OSError, match=r"symlink of another user \(UID 65534\)"):
            action(tree / name)


@needs_root
def test_the_topmost_directory_that_another_user_can_change_is_found(tmp_path: Path) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    assert safe_path.replaceable_ancestor(tmp_path / "a" / "b" / "c") is None
    os.chown(tmp_path / "a" / "b", 1000, 0)
    found = safe_path.replaceable_ancestor(tmp_path / "a" / "b" / "c")
    assert found == (tmp_path / "a" / "b", 1000)
    assert safe_path.replaceable_ancestor(tmp_path / "a" / "b") is None
    (tmp_path / "a").chmod(0o777)
    assert safe_path.replaceable_ancestor(tmp_path / "a" / "b") == (tmp_path / "a", 0)
    (tmp_path / "a").chmod(0o1777)
    assert safe_path.replaceable_ancestor(tmp_path / "a" / "b") is None


def test_missing_directories_are_made_one_by_one(tree: Path) -> None:
    for _ in range(2):  # they may exist
        os.close(safe_path.make_directories(tree / "relative" / "x" / "y", mode=0o700))
    assert (tree / "real" / "x" / "y").stat().st_mode & 0o777 == 0o700
