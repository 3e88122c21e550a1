"""stacker-fuse as a mount program and as a helper of mount(8), compared with its peers."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from stacker.linux import mountapi, mountinfo
from tests.support.snapshot import Node, snapshot
from tests.support.stacker_fuse import StackerFuse, joined, lowerdir
from tests.support.stacks import scratch
from tests.support.unprivileged import UNPRIVILEGED

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts: needs root"),
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse"),
    pytest.mark.usefixtures("alone_among_mounts"),
]
FUSE_MAGIC = 0x65735546


@pytest.fixture
def workspace() -> Iterator[Path]:
    with scratch() as directory:
        directory.chmod(0o755)
        for name in ("low", "up", "upper", "work", "target", "other"):
            (directory / name).mkdir()
        fill(directory / "low", directory / "up")
        yield directory


def fill(low: Path, up: Path) -> None:
    """Create two layers with marks that all peers read alike."""
    (low / "d/e").mkdir(parents=True)
    (low / "d/e/deep").write_bytes(b"deep" * 5000)
    (low / "d/gone").touch()
    (low / "kept").write_bytes(b"lower")
    os.link(low / "kept", low / "d/linked")
    (low / "link").symlink_to("kept")
    os.mkfifo(low / "pipe", 0o640)
    os.mknod(low / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chown(low / "d/e/deep", 11, 12)
    (low / "d/e/deep").chmod(0o4751)
    os.setxattr(low / "kept", "user.kind", b"\0\xff")
    (up / "d").mkdir(mode=0o750)
    (up / "d/new").write_bytes(b"upper")
    os.mknod(up / "d/gone", stat.S_IFCHR)


@pytest.fixture
def fuse(workspace: Path) -> Iterator[StackerFuse]:
    program = StackerFuse(workspace)
    yield program
    program.end()


def unmount(fuse: StackerFuse, target: Path) -> None:
    """Unmount, and wait until the server has exited."""
    mountapi.umount2(target)
    while fuse.servers():
        time.sleep(0.01)


def layers(workspace: Path) -> str:
    return lowerdir(workspace / "up", workspace / "low")


def writing(workspace: Path) -> str:
    return f"{layers(workspace)},upperdir={workspace}/upper,workdir={workspace}/work"


def rest(found: dict[bytes, Node]) -> dict[bytes, Node]:
    """Return a snapshot without the root, whose times and owner differ between programs."""
    return {path: node for path, node in found.items() if path}


# The two forms


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


# What it says


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


# Reading and writing


@contextmanager
def overlay(workspace: Path, options: str) -> Iterator[Path]:
    """Mount the kernel's overlay of the same directories."""
    mountapi.mount("overlay", workspace / "other", "overlay", 0, options.encode())
    try:
        yield workspace / "other"
    finally:
        mountapi.umount2(workspace / "other")


def mark_for_the_kernel(workspace: Path, namespace: str) -> None:
    """Write every mark of overlayfs, in one xattr namespace."""
    low, up = workspace / "low", workspace / "up"
    for name in ("opaque", "files"):
        (low / name / "inner").mkdir(parents=True)
        (low / name / "old").touch()
        (up / name).mkdir()
        (up / name / "new").touch()
    os.setxattr(up / "opaque", f"{namespace}.overlay.opaque", b"y")
    os.setxattr(up / "files", f"{namespace}.overlay.opaque", b"x")
    for name in ("inner", "old"):
        (up / "files" / name).touch()
        os.setxattr(up / "files" / name, f"{namespace}.overlay.whiteout", b"y")


@pytest.mark.parametrize("namespace", ["trusted", "user"])
def test_tree_equals_that_of_the_kernels_overlay(
    fuse: StackerFuse, workspace: Path, namespace: str
) -> None:
    mark_for_the_kernel(workspace, namespace)
    option = ",userxattr" if namespace == "user" else ""
    fuse(*joined(layers(workspace) + option), workspace / "target")
    found = rest(snapshot(workspace / "target"))
    assert b"files/new" in found
    assert not {b"files/old", b"files/inner", b"opaque/old", b"d/gone"} & set(found)
    with overlay(workspace, layers(workspace) + option) as other:
        wanted = rest(snapshot(other))
    assert found == wanted


@pytest.mark.skipif(not shutil.which("fuse-overlayfs"), reason="no fuse-overlayfs")
@pytest.mark.parametrize("mark", ["", "user.fuseoverlayfs", "user.overlay", "trusted.overlay"])
def test_tree_equals_that_of_fuse_overlayfs(fuse: StackerFuse, workspace: Path, mark: str) -> None:
    low, up = workspace / "low", workspace / "up"
    (low / "emptied/inner").mkdir(parents=True)
    (up / "emptied").mkdir()
    (up / "emptied/new").touch()
    if mark:
        os.setxattr(up / "emptied", f"{mark}.opaque", b"y")
    else:
        (up / "emptied/.wh..wh..opq").touch()
    (up / ".wh.link").touch()
    (up / "d/.wh.e").touch()
    fuse(*joined(layers(workspace)), workspace / "target")
    subprocess.run(["fuse-overlayfs", *joined(layers(workspace)), workspace / "other"], check=True)
    try:
        wanted = rest(snapshot(workspace / "other"))
    finally:
        mountapi.umount2(workspace / "other")
    found = rest(snapshot(workspace / "target"))
    assert b"emptied/new" in found
    assert not {b"link", b"d/e", b"emptied/inner"} & set(found)
    assert found == wanted


def test_kernels_overlay_reads_the_written_upper(fuse: StackerFuse, workspace: Path) -> None:
    mark_for_the_kernel(workspace, "trusted")
    fuse(*joined(writing(workspace)), workspace / "target")
    target = workspace / "target"
    (target / "made/inner").mkdir(parents=True)
    (target / "made/inner/file").write_bytes(b"new")
    (target / "kept").write_bytes(b"changed")
    (target / "link").unlink()
    shutil.rmtree(target / "d")
    (target / "d").mkdir()
    os.chown(target / "files/new", 5, 6)
    found = rest(snapshot(target))
    unmount(fuse, target)
    assert stat.S_ISCHR((workspace / "upper/link").lstat().st_mode)
    assert os.getxattr(workspace / "upper/d", "trusted.overlay.opaque") == b"y"
    assert rest(snapshot(workspace / "low"))[b"kept"].content == b"lower"
    with overlay(workspace, writing(workspace)) as other:
        assert rest(snapshot(other)) == found
    fuse(*joined(writing(workspace)), target)
    assert rest(snapshot(target)) == found


def test_userxattr_selects_the_namespace_of_the_marks(fuse: StackerFuse, workspace: Path) -> None:
    fuse(*joined(writing(workspace), "userxattr", "volatile"), workspace / "target")
    shutil.rmtree(workspace / "target/d")
    (workspace / "target/d").mkdir()
    assert os.listxattr(workspace / "upper/d") == ["user.overlay.opaque"]


def test_ro_mounts_the_upper_read_only(fuse: StackerFuse, workspace: Path) -> None:
    (workspace / "upper/above").touch()
    fuse(*joined(writing(workspace), "ro"), workspace / "target")
    assert "above" in os.listdir(workspace / "target")
    with pytest.raises(OSError) as caught:
        (workspace / "target/new").touch()
    assert caught.value.errno == errno.EROFS


def test_upper_directory_is_locked_by_one_mount(fuse: StackerFuse, workspace: Path) -> None:
    fuse(*joined(writing(workspace)), workspace / "target")
    done = fuse.run(*joined(writing(workspace)), workspace / "other")
    assert (done.code, mountinfo.at(workspace / "other")) == (1, None)
    assert "upper directory is in use" in done.err
    mountapi.umount2(workspace / "target")
    fuse(*joined(writing(workspace)), workspace / "target")  # at once


def test_mount_can_cover_its_lower_directory(fuse: StackerFuse, workspace: Path) -> None:
    low = workspace / "low"
    options = (
        f"{lowerdir(workspace / 'up', low)},upperdir={workspace}/upper,workdir={workspace}/work"
    )
    fuse(*joined(options), low)
    assert (low / "d/e/deep").read_bytes() == b"deep" * 5000
    (low / "kept").write_bytes(b"changed")
    assert (workspace / "upper/kept").read_bytes() == b"changed"


def test_lower_mounts_can_be_unmounted_afterwards(fuse: StackerFuse, workspace: Path) -> None:
    mountapi.mount(workspace / "low", workspace / "other", None, mountapi.MS_BIND)
    fuse(*joined(lowerdir(workspace / "other")), workspace / "target")
    mountapi.umount2(workspace / "other", mountapi.MNT_DETACH)
    assert (workspace / "target/d/e/deep").read_bytes() == b"deep" * 5000


# Owners


def owner(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


def test_squash_to_root_changes_all_owners(fuse: StackerFuse, workspace: Path) -> None:
    fuse(*joined(layers(workspace), "squash_to_root"), workspace / "target")
    owners = {node.owner for node in snapshot(workspace / "target").values()}
    assert owners == {(0, 0)}


@pytest.mark.skipif(not shutil.which("fuse-overlayfs"), reason="no fuse-overlayfs")
@pytest.mark.parametrize(
    "option",
    [
        "squash_to_uid=7,squash_to_gid=8",
        "squash_to_root,squash_to_uid=7",
        "uidmapping=0:1000:1:1:110000:65536,gidmapping=0:1000:1:1:110000:65536",
        "uidmapping=11:0:1",
        "squash_to_uid=7,gidmapping=0:500:100",
    ],
)
def test_owners_equal_those_of_fuse_overlayfs(
    fuse: StackerFuse, workspace: Path, option: str
) -> None:
    seen = []
    others = workspace / "upper2", workspace / "work2"
    for directory in others:
        directory.mkdir()
    theirs = f"{layers(workspace)},upperdir={others[0]},workdir={others[1]}"
    fuse(*joined(writing(workspace), option), workspace / "target")
    subprocess.run(["fuse-overlayfs", *joined(theirs, option), workspace / "other"], check=True)
    for target, upper in (
        (workspace / "target", workspace / "upper"),
        (workspace / "other", others[0]),
    ):
        (target / "new").touch()
        (target / "given").touch()
        os.chown(target / "given", 1000, 1000)
        os.chown(target / "kept", 110005, 110006)
        names = ("new", "given", "kept", "d/e/deep")
        seen.append(
            (
                [owner(target / name) for name in names],
                [owner(upper / name) for name in names[:3]],
            )
        )
    mountapi.umount2(workspace / "other")
    assert seen[0] == seen[1]


# Coming and going


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
