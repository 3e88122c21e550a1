"""The command line of `stacker-fuse`, and its messages."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from stacker.linux import mountapi, mountinfo
from tests.support.stacker_fuse import StackerFuse, joined, layers, unmount

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts: needs root"),
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse"),
    pytest.mark.usefixtures("alone_among_mounts"),
]


FUSE_MAGIC = 0x65735546


# Arguments


def test_mount_program_interface_takes_options_and_a_directory(
    fuse: StackerFuse, workspace: Path
) -> None:
    message = fuse(*joined(layers(workspace)), workspace / "target")
    assert (message.out, message.err) == ("", "")
    assert sorted(os.listdir(workspace / "target/d")) == ["e", "linked", "new"]
    found = mountinfo.at(workspace / "target")
    assert found is not None
    assert (found.fstype, found.source) == ("fuse.stacker-fuse", "stacker-fuse")
    assert found.read_only
    kind = subprocess.check_output(["stat", "-f", "-c", "%t", workspace / "target"], text=True)
    assert int(kind, 16) == FUSE_MAGIC
    assert len(fuse.servers()) > 1
    unmount(fuse, workspace / "target")


@pytest.mark.skipif(not shutil.which("mount.fuse3"), reason="no mount.fuse3: package fuse3")
@pytest.mark.parametrize("kind", ["fuse.stacker-fuse overlay", "fuse stacker-fuse#overlay"])
def test_mount_8_runs_the_helper(fuse: StackerFuse, workspace: Path, kind: str) -> None:
    words, options = (
        kind.replace(" ", " '") + "'",
        f"{layers(workspace)},noatime,strange,nofail,x-y=z",
    )
    script = f"""
        set -e
        mount --bind {fuse.program.parent} /usr/local/bin
        mount -t {words} {workspace}/target -o {options}
        grep {workspace}/target /proc/self/mounts
        cat {workspace}/target/d/new
        umount {workspace}/target
    """
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done
    line, _, content = done.stdout.partition("\n")
    assert line.split()[:3:2] == ["overlay", "fuse.stacker-fuse"]
    assert "noatime" in line.split()[3].split(",")
    assert not {"nosuid", "nodev"} & set(line.split()[3].split(","))
    assert content == "upper"
    assert done.stderr == "stacker-fuse: warning: options ignored: strange\n"


def test_mountinfo_shows_the_given_source(fuse: StackerFuse, workspace: Path) -> None:
    fuse("some, source", workspace / "target", *joined(layers(workspace), "noatime,nodev,noexec"))
    found = mountinfo.at(workspace / "target")
    assert found is not None
    assert found.source == "some, source"
    assert {"ro", "noatime", "nodev", "noexec"} <= found.options
    assert "nosuid" not in found.options


def test_directories_can_be_relative_or_symlinks(fuse: StackerFuse, workspace: Path) -> None:
    (workspace / "short").symlink_to("up")
    done = fuse.run("-o", "lowerdir=short:low", "target", cwd=workspace)
    assert done.code == 0, done
    assert (workspace / "target/d/new").read_bytes() == b"upper"
    mountapi.umount2(workspace / "target")


def test_escaped_characters_in_names(fuse: StackerFuse, workspace: Path) -> None:
    for name in ("a:b", "c,d", "e\\f"):
        (workspace / name).mkdir()
        (workspace / name / name).touch()
    fuse(
        "-o", rf"lowerdir={workspace}/a\:b:{workspace}/c\,d:{workspace}/e\\f", workspace / "target"
    )
    assert sorted(os.listdir(workspace / "target")) == ["a:b", "c,d", "e\\f"]


# Messages


def test_unknown_options_are_ignored_with_one_warning(fuse: StackerFuse, workspace: Path) -> None:
    options = (layers(workspace), "xattr_permissions=2,nodev,timeout=3,plugins=x,ro")
    message = fuse("--strange", *joined(*options), workspace / "target")
    assert message.err == (
        "stacker-fuse: warning: options ignored: --strange, xattr_permissions=2, plugins=x\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("lowerdir={}/none", "lower directory: {}/none: No such file"),
        ("lowerdir={}/low/kept", "lower directory: {}/low/kept: Not a directory"),
        ("lowerdir={}/low,upperdir={}/none,workdir={}/work", "upper directory: {}/none"),
        ("lowerdir={}/low,upperdir={}/upper,workdir={}/no/work", "{}/no/work: No such file"),
        ("lowerdir={}/low,upperdir={}/upper,workdir={}/upper/w", "inside the upper directory"),
        ("lowerdir={}/low,upperdir={}/target,workdir={}/work", "under the mount point"),
        ("lowerdir={}/low,upperdir={}/upper,workdir=/proc/self", "Not a directory|another file"),
    ],
)
def test_setup_error_is_printed_with_exit_code_1(
    fuse: StackerFuse, workspace: Path, options: str, message: str
) -> None:
    done = fuse.run("-o", options.replace("{}", str(workspace)), workspace / "target")
    assert done.code == 1
    lines = done.err.splitlines()
    assert lines[0].startswith("stacker-fuse: error: ")
    wanted = message.replace("{}", str(workspace)).split("|")
    assert any(each in lines[0] for each in wanted), lines
    assert mountinfo.at(workspace / "target") is None
    assert not fuse.servers()


def test_error_names_the_directory(fuse: StackerFuse, workspace: Path) -> None:
    os.setxattr(workspace / "low/d/e", "trusted.overlay.redirect", b"x")
    done = fuse.run(*joined(layers(workspace)), workspace / "target")
    assert done.code == 1
    assert f"{workspace}/low/d/e: has the mark" in done.err


def test_help_and_version_go_to_stdout(fuse: StackerFuse) -> None:
    assert "lowerdir=DIR[:DIR…]" in fuse("--help").out
    assert fuse("-V").out.startswith("stacker-fuse 0")


def test_closed_stdout_is_one_message(fuse: StackerFuse) -> None:
    done = subprocess.run(["sh", "-c", f"{fuse.program} --help 1>&-"], check=False, stderr=-1)
    message = b"stacker-fuse: error: cannot write to stdout: Bad file descriptor\n"
    assert (done.returncode, done.stderr) == (1, message)


def test_closed_stderr_discards_messages(fuse: StackerFuse) -> None:
    done = subprocess.run([f"{fuse.program} 2>&-"], shell=True, check=False, stdout=-1)
    assert (done.returncode, done.stdout) == (1, b"")


def test_mount_with_closed_streams_answers(fuse: StackerFuse, workspace: Path) -> None:
    command = f"{fuse.program} -o {layers(workspace)} {workspace}/target 0<&- 1>&- 2>&-"
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 0
    assert sorted(os.listdir(workspace / "target/d")) == ["e", "linked", "new"]
    unmount(fuse, workspace / "target")
