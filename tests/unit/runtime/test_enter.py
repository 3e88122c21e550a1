"""Mount points and programs of a root filesystem, before a process enters it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from stacker.errors import IntegrityError, MountError, StackerError, StartError
from stacker.linux.mountapi import FileDescriptor
from stacker.runtime import enter, rootfs


def target_in(root: Path, path: str, *, directory: bool = True) -> str:
    """Open a mount point, and return where it is on the host."""
    with (
        FileDescriptor.open_directory(root) as opened,
        FileDescriptor(rootfs._target(opened.number, path, directory=directory)) as point,
    ):
        return os.readlink(point.path)


def test_missing_mount_point_is_created_in_the_root(tmp_path: Path) -> None:
    assert target_in(tmp_path, "/a/b") == f"{tmp_path}/a/b"
    assert target_in(tmp_path, "/a/file", directory=False) == f"{tmp_path}/a/file"
    assert (tmp_path / "a/file").is_file()


def test_link_leads_to_a_mount_point_in_the_root(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").symlink_to("/../../run/resolv.conf")
    found = target_in(tmp_path, "/etc/resolv.conf", directory=False)
    assert found == f"{tmp_path}/run/resolv.conf"


def test_link_at_a_mount_point_of_the_kernel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "proc").symlink_to("etc")
    with pytest.raises(IntegrityError, match="unsafe mount point"):
        target_in(tmp_path, "/proc")


def test_component_that_became_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root/data").symlink_to(tmp_path / "outside")
    with (
        FileDescriptor.open_directory(tmp_path / "root") as root,
        pytest.raises(NotADirectoryError),
    ):
        rootfs._directory(root.number, "/data/new")
    assert os.listdir(tmp_path / "outside") == []


def test_interpreter_is_recognized_through_links_and_scripts(tmp_path: Path) -> None:
    own = os.stat(sys.executable)
    (tmp_path / "link").symlink_to(sys.executable)
    (tmp_path / "script").write_text(f"#! {tmp_path}/link -c pass\n")
    (tmp_path / "outer").write_text(f"#!{tmp_path}/script\n")
    (tmp_path / "loop").write_text(f"#!{tmp_path}/loop\n")
    os.mkfifo(tmp_path / "fifo")
    starting = [name for name in os.listdir(tmp_path) if enter._starts(f"{tmp_path}/{name}", own)]
    assert sorted(starting) == ["link", "outer", "script"]


@pytest.mark.parametrize("kind", [IntegrityError, MountError, StackerError, StartError])
def test_failure_survives_the_pipe(kind: type[StackerError]) -> None:
    failure = kind("text \udcff", hint="try again")
    failure.exit_code = 127
    found = enter.decode_failure(enter.encode_failure(failure))
    assert (type(found), found.message, found.hint) == (kind, "text \udcff", "try again")
    assert found.exit_code == 127
