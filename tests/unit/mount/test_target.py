"""Mount points: what is accepted, what is refused, and the lock."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stacker.errors import LockedError, MountError
from stacker.linux import lock, mountapi
from stacker.mount.target import locked_target, resolve_target

if TYPE_CHECKING:
    from tests.support.bench import Bench

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


def refusal(target: Path, *, forbidden: Path | None = None) -> MountError:
    with pytest.raises(MountError) as caught:
        resolve_target(target, forbidden=forbidden)
    assert caught.value.exit_code == 9
    return caught.value


def test_empty_directory_is_accepted(bench: Bench) -> None:
    assert resolve_target(bench.target, forbidden=bench.store) == bench.target


def test_symlinks_and_relative_paths_are_resolved(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bench.path / "link").symlink_to("target")
    monkeypatch.chdir(bench.path)
    assert resolve_target(Path("link")) == bench.target
    assert resolve_target(Path("store/../target")) == bench.target


def test_missing_target_is_refused_with_a_hint(bench: Bench) -> None:
    error = refusal(bench.path / "missing")
    assert error.message == f"mount target does not exist: {bench.path}/missing"
    assert error.hint == f"mkdir {bench.path}/missing"


def test_dangling_symlink_is_a_missing_target(bench: Bench) -> None:
    (bench.path / "link").symlink_to("nowhere")
    assert "does not exist" in refusal(bench.path / "link").message


def test_symlink_loop_is_refused(bench: Bench) -> None:
    (bench.path / "link").symlink_to("link")
    assert "symbolic links" in refusal(bench.path / "link").message


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_file_is_refused_as_target(bench: Bench, name: str) -> None:
    (bench.path / "file").write_bytes(b"x")
    assert "is not a directory" in refusal(bench.path / name).message


@pytest.mark.parametrize("name", [".", "layers", "layers/deep"])
def test_a_target_inside_the_store_is_refused(bench: Bench, name: str) -> None:
    target = bench.store / name
    target.mkdir(parents=True, exist_ok=True)
    assert "is inside the store" in refusal(target, forbidden=bench.store).message


def test_a_target_that_would_hide_the_store_is_refused(bench: Bench) -> None:
    assert "is around the store" in refusal(bench.path, forbidden=bench.store).message


def test_a_symlink_into_the_store_is_refused(bench: Bench) -> None:
    (bench.path / "link").symlink_to(bench.store)
    assert "inside the store" in refusal(bench.path / "link", forbidden=bench.store).message


def test_store_behind_a_symlink_is_refused(bench: Bench) -> None:
    (bench.path / "link").symlink_to(bench.store)
    assert "inside the store" in refusal(bench.store, forbidden=bench.path / "link").message


def test_name_that_starts_like_the_store_is_accepted(bench: Bench) -> None:
    (bench.path / "store2").mkdir()
    assert resolve_target(bench.path / "store2", forbidden=bench.store) == bench.path / "store2"


def test_root_directory_is_busy() -> None:
    assert "is busy" in refusal(Path("/")).message


@needs_root
def test_mount_point_is_busy(bench: Bench) -> None:
    mountapi.mount("another", bench.target, "tmpfs", 0)
    error = refusal(bench.target)
    assert error.message.endswith(f"is busy: {bench.target}: tmpfs another is mounted there")
    assert error.hint is not None
    assert "stacker umount" not in error.hint


@needs_root
def test_own_mount_is_busy_with_a_hint_to_umount(bench: Bench) -> None:
    mountapi.mount("stacker:0a", bench.target, "tmpfs", 0)
    assert refusal(bench.target).hint == f"stacker umount {bench.target}"


def test_locked_target_is_refused(bench: Bench) -> None:
    with (
        lock.exclusive(bench.target, create=False),
        pytest.raises(LockedError, match="another process is mounting on it"),
        locked_target(bench.target),
    ):
        pass
    with locked_target(bench.target):
        pass


@needs_root
def test_target_mounted_meanwhile_is_busy(bench: Bench) -> None:
    target = resolve_target(bench.target)
    mountapi.mount("stacker:0a", bench.target, "tmpfs", 0)
    with pytest.raises(MountError, match="is busy"), locked_target(target):
        pass


@needs_root
def test_target_in_an_inaccessible_directory_is_refused(
    bench: Bench, unprivileged_python: str
) -> None:
    code = "import sys; from pathlib import Path; from stacker.mount.target import resolve_target\n"
    code += "try: resolve_target(Path(sys.argv[1]))\nexcept Exception as error: print(repr(error))"
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    command = [*nobody, unprivileged_python, "-c", code, str(bench.store / "mounts")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "cannot use mount target" in done.stdout
    assert "Permission denied" in done.stdout
