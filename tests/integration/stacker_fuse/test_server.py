"""The process of a `stacker-fuse` mount: signals, crashes and users without privileges."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from stacker.linux import mountapi, mountinfo
from tests.support.stacker_fuse import StackerFuse, joined, layers, lowerdir, owner, writing
from tests.support.unprivileged import UNPRIVILEGED

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts: needs root"),
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse"),
    pytest.mark.usefixtures("alone_among_mounts"),
]


# Signals and crashes


def test_foreground_server_ends_on_sigterm(fuse: StackerFuse, workspace: Path) -> None:
    words = [str(fuse.program), "-f", "-d", *joined(writing(workspace)), str(workspace / "target")]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as server:
        while mountinfo.at(workspace / "target") is None:
            time.sleep(0.01)
        (workspace / "target/new").write_bytes(b"new")
        assert server.poll() is None
        server.send_signal(signal.SIGTERM)
        _, message = server.communicate()
    assert server.returncode == 0
    assert f"stacker-fuse: upper: {workspace}/upper" in message.splitlines()
    assert mountinfo.at(workspace / "target") is None
    assert (workspace / "upper/new").read_bytes() == b"new"
    while fuse.servers():
        time.sleep(0.01)


def test_foreground_server_prints_errors(fuse: StackerFuse, workspace: Path) -> None:
    done = fuse.run("-f", *joined(lowerdir(workspace / "none")), workspace / "target")
    assert (done.code, done.out) == (1, "")
    assert "none: No such file or directory" in done.err


@pytest.mark.parametrize("options", [layers, writing])
def test_signal_unmounts(fuse: StackerFuse, workspace: Path, options: object) -> None:
    assert callable(options)
    fuse(*joined(options(workspace)), workspace / "target")
    os.kill(fuse.servers()[0], signal.SIGTERM)
    while mountinfo.at(workspace / "target") is not None:
        time.sleep(0.01)
    while fuse.servers():
        time.sleep(0.01)


def test_signal_spares_another_mount_with_the_same_source(
    fuse: StackerFuse, workspace: Path
) -> None:
    fuse("same", workspace / "other", *joined(layers(workspace)))
    first = fuse.servers()
    fuse("same", workspace / "target", *joined(layers(workspace)))
    later = min(set(fuse.servers()) - set(first))
    os.kill(later, signal.SIGTERM)
    while mountinfo.at(workspace / "target") is not None:
        time.sleep(0.01)
    assert (workspace / "other/d/new").read_bytes() == b"upper"


def test_crashed_mount_can_be_unmounted_and_mounted_again(
    fuse: StackerFuse, workspace: Path
) -> None:
    fuse(*joined(writing(workspace)), workspace / "target")
    (workspace / "target/new").write_bytes(b"new")
    for server in fuse.servers():
        os.kill(server, signal.SIGKILL)
    while fuse.servers():
        time.sleep(0.01)
    with pytest.raises(OSError) as caught:
        os.listdir(workspace / "target")
    assert caught.value.errno in {errno.ENOTCONN, errno.ECONNABORTED}
    again = fuse.run(*joined(writing(workspace)), workspace / "target")
    assert again.code == 1
    assert "mount point" in again.err
    mountapi.umount2(workspace / "target")
    fuse(*joined(writing(workspace)), workspace / "target")
    assert (workspace / "target/new").read_bytes() == b"new"


# Without privileges


class UnprivilegedShell:
    """A shell of an unprivileged user in a mount namespace where all users may use /dev/fuse.

    :param fuse: the program that `$fuse` runs.
    """

    def __init__(self, fuse: StackerFuse, device: Path) -> None:
        self.fuse = fuse
        self._device = device

    def run(self, script: str, *wrap: str, options: str = "") -> subprocess.CompletedProcess[str]:
        """Run a script in the directory, and return its result."""
        words = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /dev/fuse && exec "$@"']
        words += [str(self._device), *UNPRIVILEGED, *wrap, "sh", "-c", script]
        environ = {**os.environ, "fuse": str(self.fuse.program), "options": options}
        return subprocess.run(
            words, capture_output=True, text=True, check=False, cwd=self.fuse.workspace, env=environ
        )


@pytest.fixture
def unprivileged(
    fuse: StackerFuse, workspace: Path, unprivileged_python: str, tmp_path: Path
) -> UnprivilegedShell:
    if not shutil.which("fusermount3"):
        pytest.skip("no fusermount3: package fuse3")
    for name in ("upper", "work", "target"):
        os.chown(workspace / name, 65534, 65534)
    (workspace / "up/d").chmod(0o755)
    device = tmp_path / "fuse"  # as most distributions have it
    os.mknod(device, stat.S_IFCHR | 0o666, os.stat("/dev/fuse").st_rdev)
    device.chmod(0o666)
    return UnprivilegedShell(replace(fuse, python=unprivileged_python), device)


def test_unprivileged_user_mounts_by_fusermount3(
    unprivileged: UnprivilegedShell, workspace: Path
) -> None:
    script = """
        set -e
        $fuse "my source" $PWD/target -o $options
        grep $PWD/target /proc/self/mounts
        cd target; rm kept; mkdir d2; echo new > d2/file; ls; cd ..
        fusermount3 -u $PWD/target
    """
    done = unprivileged.run(script, options=f"{writing(workspace)},noatime,dev,suid,allow_root")
    assert done.returncode == 0, done
    assert done.stderr == "stacker-fuse: warning: options ignored: allow_root\n"
    line, *names = done.stdout.splitlines()
    source, _, kind, options, *_ = line.split()
    assert (source, kind) == (r"my\040source", "fuse.stacker-fuse")
    assert {"rw", "nosuid", "nodev", "noatime"} <= set(options.split(","))
    assert names == ["d", "d2", "link", "null", "pipe"]
    assert stat.S_ISCHR((workspace / "upper/kept").lstat().st_mode)
    assert owner(workspace / "upper/d2/file") == (65534, 65534)


def test_allow_other_needs_user_allow_other_in_fuse_conf(
    unprivileged: UnprivilegedShell, workspace: Path
) -> None:
    script = "$fuse $PWD/target -o $options && cat target/d/new && fusermount3 -u target"
    done = unprivileged.run(script, options=f"{layers(workspace)},allow_other")
    conf = Path("/etc/fuse.conf")
    if conf.exists() and "user_allow_other" in conf.read_text().splitlines():
        assert (done.returncode, done.stdout) == (0, "upper")
    else:
        assert done.returncode == 1
        assert "user_allow_other" in done.stderr


def test_error_names_an_unreadable_layer(unprivileged: UnprivilegedShell, workspace: Path) -> None:
    (workspace / "up/d").chmod(0o750)
    done = unprivileged.run("$fuse $PWD/target -o $options", options=layers(workspace))
    assert done.returncode == 1
    assert f"{workspace}/up/d: Permission denied" in done.stderr


def test_root_of_a_user_namespace_needs_no_fusermount3(
    unprivileged: UnprivilegedShell, workspace: Path
) -> None:
    script = """
        set -e
        $fuse -o $options $PWD/target
        rm target/kept; mkdir target/new; chown 0:0 target/new
        grep $PWD/target /proc/self/mounts
        umount $PWD/target
    """
    for path in (*workspace.rglob("*"),):  # what belongs to who has no id there cannot be removed
        os.chown(path, 65534, 65534, follow_symlinks=False)
    wrap = ("unshare", "--user", "--map-root-user", "--mount")
    done = unprivileged.run(script, *wrap, options=writing(workspace))
    if "unshare:" in done.stderr:
        pytest.skip(f"no user namespaces: {done.stderr}")
    assert done.returncode == 0, done
    assert "fuse.stacker-fuse" in done.stdout
    assert "nosuid" not in done.stdout
    assert stat.S_ISCHR((workspace / "upper/kept").lstat().st_mode)
    assert owner(workspace / "upper/new") == (65534, 65534)
