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
def room() -> Iterator[Path]:
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
def fuse(room: Path) -> Iterator[StackerFuse]:
    program = StackerFuse(room)
    yield program
    program.end()


def unmount(fuse: StackerFuse, target: Path) -> None:
    """Unmount, and wait until the server has exited."""
    mountapi.umount2(target)
    while fuse.servers():
        time.sleep(0.01)


def layers(room: Path) -> str:
    return lowerdir(room / "up", room / "low")


def writing(room: Path) -> str:
    return f"{layers(room)},upperdir={room}/upper,workdir={room}/work"


def rest(found: dict[bytes, Node]) -> dict[bytes, Node]:
    """Return a snapshot without the root, whose times and owner differ between programs."""
    return {path: node for path, node in found.items() if path}


# The two forms


def test_mount_program_interface_takes_options_and_a_directory(
    fuse: StackerFuse, room: Path
) -> None:
    said = fuse(*joined(layers(room)), room / "target")
    assert (said.out, said.err) == ("", "")
    assert sorted(os.listdir(room / "target/d")) == ["e", "linked", "new"]
    found = mountinfo.at(room / "target")
    assert found is not None
    assert (found.fstype, found.source) == ("fuse.stacker-fuse", "stacker-fuse")
    assert found.read_only
    kind = subprocess.check_output(["stat", "-f", "-c", "%t", room / "target"], text=True)
    assert int(kind, 16) == FUSE_MAGIC
    assert len(fuse.servers()) > 1
    unmount(fuse, room / "target")


@pytest.mark.skipif(not shutil.which("mount.fuse3"), reason="no mount.fuse3: package fuse3")
@pytest.mark.parametrize("kind", ["fuse.stacker-fuse overlay", "fuse stacker-fuse#overlay"])
def test_mount_8_runs_the_helper(fuse: StackerFuse, room: Path, kind: str) -> None:
    words, options = kind.replace(" ", " '") + "'", f"{layers(room)},noatime,strange,nofail,x-y=z"
    script = f"""
        set -e
        mount --bind {fuse.program.parent} /usr/local/bin
        mount -t {words} {room}/target -o {options}
        grep {room}/target /proc/self/mounts
        cat {room}/target/d/new
        umount {room}/target
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


def test_mountinfo_shows_the_given_source(fuse: StackerFuse, room: Path) -> None:
    fuse("some, source", room / "target", *joined(layers(room), "noatime,nodev,noexec"))
    found = mountinfo.at(room / "target")
    assert found is not None
    assert found.source == "some, source"
    assert {"ro", "noatime", "nodev", "noexec"} <= found.options
    assert "nosuid" not in found.options


def test_directories_can_be_relative_or_symlinks(fuse: StackerFuse, room: Path) -> None:
    (room / "short").symlink_to("up")
    done = fuse.run("-o", "lowerdir=short:low", "target", cwd=room)
    assert done.code == 0, done
    assert (room / "target/d/new").read_bytes() == b"upper"
    mountapi.umount2(room / "target")


def test_escaped_characters_in_names(fuse: StackerFuse, room: Path) -> None:
    for name in ("a:b", "c,d", "e\\f"):
        (room / name).mkdir()
        (room / name / name).touch()
    fuse("-o", rf"lowerdir={room}/a\:b:{room}/c\,d:{room}/e\\f", room / "target")
    assert sorted(os.listdir(room / "target")) == ["a:b", "c,d", "e\\f"]


# What it says


def test_unknown_options_are_ignored_with_one_warning(fuse: StackerFuse, room: Path) -> None:
    options = (layers(room), "xattr_permissions=2,nodev,timeout=3,plugins=x,ro")
    said = fuse("--strange", *joined(*options), room / "target")
    assert said.err == (
        "stacker-fuse: warning: options ignored: --strange, xattr_permissions=2, plugins=x\n"
    )


@pytest.mark.parametrize(
    ("options", "said"),
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
    fuse: StackerFuse, room: Path, options: str, said: str
) -> None:
    done = fuse.run("-o", options.replace("{}", str(room)), room / "target")
    assert done.code == 1
    lines = done.err.splitlines()
    assert lines[0].startswith("stacker-fuse: error: ")
    wanted = said.replace("{}", str(room)).split("|")
    assert any(each in lines[0] for each in wanted), lines
    assert mountinfo.at(room / "target") is None
    assert not fuse.servers()


def test_error_names_the_directory(fuse: StackerFuse, room: Path) -> None:
    os.setxattr(room / "low/d/e", "trusted.overlay.redirect", b"x")
    done = fuse.run(*joined(layers(room)), room / "target")
    assert done.code == 1
    assert f"{room}/low/d/e: has the mark" in done.err


def test_help_and_version_go_to_stdout(fuse: StackerFuse) -> None:
    assert "lowerdir=DIR[:DIR…]" in fuse("--help").out
    assert fuse("-V").out.startswith("stacker-fuse 0")


# Reading and writing


@contextmanager
def overlay(room: Path, options: str) -> Iterator[Path]:
    """Mount the kernel's overlay of the same directories."""
    mountapi.mount("overlay", room / "other", "overlay", 0, options.encode())
    try:
        yield room / "other"
    finally:
        mountapi.umount2(room / "other")


def mark_for_the_kernel(room: Path, namespace: str) -> None:
    """Write every mark of overlayfs, in one xattr namespace."""
    low, up = room / "low", room / "up"
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
    fuse: StackerFuse, room: Path, namespace: str
) -> None:
    mark_for_the_kernel(room, namespace)
    option = ",userxattr" if namespace == "user" else ""
    fuse(*joined(layers(room) + option), room / "target")
    found = rest(snapshot(room / "target"))
    assert b"files/new" in found
    assert not {b"files/old", b"files/inner", b"opaque/old", b"d/gone"} & set(found)
    with overlay(room, layers(room) + option) as other:
        wanted = rest(snapshot(other))
    assert found == wanted


@pytest.mark.skipif(not shutil.which("fuse-overlayfs"), reason="no fuse-overlayfs")
@pytest.mark.parametrize("mark", ["", "user.fuseoverlayfs", "user.overlay", "trusted.overlay"])
def test_tree_equals_that_of_fuse_overlayfs(fuse: StackerFuse, room: Path, mark: str) -> None:
    low, up = room / "low", room / "up"
    (low / "emptied/inner").mkdir(parents=True)
    (up / "emptied").mkdir()
    (up / "emptied/new").touch()
    if mark:
        os.setxattr(up / "emptied", f"{mark}.opaque", b"y")
    else:
        (up / "emptied/.wh..wh..opq").touch()
    (up / ".wh.link").touch()
    (up / "d/.wh.e").touch()
    fuse(*joined(layers(room)), room / "target")
    subprocess.run(["fuse-overlayfs", *joined(layers(room)), room / "other"], check=True)
    try:
        wanted = rest(snapshot(room / "other"))
    finally:
        mountapi.umount2(room / "other")
    found = rest(snapshot(room / "target"))
    assert b"emptied/new" in found
    assert not {b"link", b"d/e", b"emptied/inner"} & set(found)
    assert found == wanted


def test_kernels_overlay_reads_the_written_upper(fuse: StackerFuse, room: Path) -> None:
    mark_for_the_kernel(room, "trusted")
    fuse(*joined(writing(room)), room / "target")
    target = room / "target"
    (target / "made/inner").mkdir(parents=True)
    (target / "made/inner/file").write_bytes(b"new")
    (target / "kept").write_bytes(b"changed")
    (target / "link").unlink()
    shutil.rmtree(target / "d")
    (target / "d").mkdir()
    os.chown(target / "files/new", 5, 6)
    found = rest(snapshot(target))
    unmount(fuse, target)
    assert stat.S_ISCHR((room / "upper/link").lstat().st_mode)
    assert os.getxattr(room / "upper/d", "trusted.overlay.opaque") == b"y"
    assert rest(snapshot(room / "low"))[b"kept"].content == b"lower"
    with overlay(room, writing(room)) as other:
        assert rest(snapshot(other)) == found
    fuse(*joined(writing(room)), target)
    assert rest(snapshot(target)) == found


def test_userxattr_selects_the_namespace_of_the_marks(fuse: StackerFuse, room: Path) -> None:
    fuse(*joined(writing(room), "userxattr", "volatile"), room / "target")
    shutil.rmtree(room / "target/d")
    (room / "target/d").mkdir()
    assert os.listxattr(room / "upper/d") == ["user.overlay.opaque"]


def test_ro_mounts_the_upper_read_only(fuse: StackerFuse, room: Path) -> None:
    (room / "upper/above").touch()
    fuse(*joined(writing(room), "ro"), room / "target")
    assert "above" in os.listdir(room / "target")
    with pytest.raises(OSError) as caught:
        (room / "target/new").touch()
    assert caught.value.errno == errno.EROFS


def test_upper_directory_is_locked_by_one_mount(fuse: StackerFuse, room: Path) -> None:
    fuse(*joined(writing(room)), room / "target")
    done = fuse.run(*joined(writing(room)), room / "other")
    assert (done.code, mountinfo.at(room / "other")) == (1, None)
    assert "upper directory is in use" in done.err
    mountapi.umount2(room / "target")
    fuse(*joined(writing(room)), room / "target")  # at once


def test_mount_can_cover_its_lower_directory(fuse: StackerFuse, room: Path) -> None:
    low = room / "low"
    options = f"{lowerdir(room / 'up', low)},upperdir={room}/upper,workdir={room}/work"
    fuse(*joined(options), low)
    assert (low / "d/e/deep").read_bytes() == b"deep" * 5000
    (low / "kept").write_bytes(b"changed")
    assert (room / "upper/kept").read_bytes() == b"changed"


def test_lower_mounts_can_be_unmounted_afterwards(fuse: StackerFuse, room: Path) -> None:
    mountapi.mount(room / "low", room / "other", None, mountapi.MS_BIND)
    fuse(*joined(lowerdir(room / "other")), room / "target")
    mountapi.umount2(room / "other", mountapi.MNT_DETACH)
    assert (room / "target/d/e/deep").read_bytes() == b"deep" * 5000


# Owners


def owner(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


def test_squash_to_root_changes_all_owners(fuse: StackerFuse, room: Path) -> None:
    fuse(*joined(layers(room), "squash_to_root"), room / "target")
    owners = {node.owner for node in snapshot(room / "target").values()}
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
def test_owners_equal_those_of_fuse_overlayfs(fuse: StackerFuse, room: Path, option: str) -> None:
    seen = []
    others = room / "upper2", room / "work2"
    for directory in others:
        directory.mkdir()
    theirs = f"{layers(room)},upperdir={others[0]},workdir={others[1]}"
    fuse(*joined(writing(room), option), room / "target")
    subprocess.run(["fuse-overlayfs", *joined(theirs, option), room / "other"], check=True)
    for target, upper in ((room / "target", room / "upper"), (room / "other", others[0])):
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
    mountapi.umount2(room / "other")
    assert seen[0] == seen[1]


# Coming and going


def test_foreground_server_ends_on_sigterm(fuse: StackerFuse, room: Path) -> None:
    words = [str(fuse.program), "-f", "-d", *joined(writing(room)), str(room / "target")]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as server:
        while mountinfo.at(room / "target") is None:
            time.sleep(0.01)
        (room / "target/new").write_bytes(b"new")
        assert server.poll() is None
        server.send_signal(signal.SIGTERM)
        _, said = server.communicate()
    assert server.returncode == 0
    assert f"stacker-fuse: upper: {room}/upper" in said.splitlines()
    assert mountinfo.at(room / "target") is None
    assert (room / "upper/new").read_bytes() == b"new"
    while fuse.servers():
        time.sleep(0.01)


def test_foreground_server_prints_errors(fuse: StackerFuse, room: Path) -> None:
    done = fuse.run("-f", *joined(lowerdir(room / "none")), room / "target")
    assert (done.code, done.out) == (1, "")
    assert "none: No such file or directory" in done.err


@pytest.mark.parametrize("options", [layers, writing])
def test_signal_unmounts(fuse: StackerFuse, room: Path, options: object) -> None:
    assert callable(options)
    fuse(*joined(options(room)), room / "target")
    os.kill(fuse.servers()[0], signal.SIGTERM)
    while mountinfo.at(room / "target") is not None:
        time.sleep(0.01)
    while fuse.servers():
        time.sleep(0.01)


def test_signal_spares_another_mount_with_the_same_source(fuse: StackerFuse, room: Path) -> None:
    fuse("same", room / "other", *joined(layers(room)))
    first = fuse.servers()
    fuse("same", room / "target", *joined(layers(room)))
    later = min(set(fuse.servers()) - set(first))
    os.kill(later, signal.SIGTERM)
    while mountinfo.at(room / "target") is not None:
        time.sleep(0.01)
    assert (room / "other/d/new").read_bytes() == b"upper"


def test_crashed_mount_can_be_unmounted_and_mounted_again(fuse: StackerFuse, room: Path) -> None:
    fuse(*joined(writing(room)), room / "target")
    (room / "target/new").write_bytes(b"new")
    for server in fuse.servers():
        os.kill(server, signal.SIGKILL)
    while fuse.servers():
        time.sleep(0.01)
    with pytest.raises(OSError) as caught:
        os.listdir(room / "target")
    assert caught.value.errno in {errno.ENOTCONN, errno.ECONNABORTED}
    again = fuse.run(*joined(writing(room)), room / "target")
    assert again.code == 1
    assert "mount point" in again.err
    mountapi.umount2(room / "target")
    fuse(*joined(writing(room)), room / "target")
    assert (room / "target/new").read_bytes() == b"new"


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
            words, capture_output=True, text=True, check=False, cwd=self.fuse.room, env=environ
        )


@pytest.fixture
def unprivileged(
    fuse: StackerFuse, room: Path, unprivileged_python: str, tmp_path: Path
) -> UnprivilegedShell:
    if not shutil.which("fusermount3"):
        pytest.skip("no fusermount3: package fuse3")
    for name in ("upper", "work", "target"):
        os.chown(room / name, 65534, 65534)
    (room / "up/d").chmod(0o755)
    device = tmp_path / "fuse"  # as most distributions have it
    os.mknod(device, stat.S_IFCHR | 0o666, os.stat("/dev/fuse").st_rdev)
    device.chmod(0o666)
    return UnprivilegedShell(replace(fuse, python=unprivileged_python), device)


def test_unprivileged_user_mounts_by_fusermount3(
    unprivileged: UnprivilegedShell, room: Path
) -> None:
    script = """
        set -e
        $fuse "my source" $PWD/target -o $options
        grep $PWD/target /proc/self/mounts
        cd target; rm kept; mkdir d2; echo new > d2/file; ls; cd ..
        fusermount3 -u $PWD/target
    """
    done = unprivileged.run(script, options=f"{writing(room)},noatime,dev,suid,allow_root")
    assert done.returncode == 0, done
    assert done.stderr == "stacker-fuse: warning: options ignored: allow_root\n"
    line, *names = done.stdout.splitlines()
    source, _, kind, options, *_ = line.split()
    assert (source, kind) == (r"my\040source", "fuse.stacker-fuse")
    assert {"rw", "nosuid", "nodev", "noatime"} <= set(options.split(","))
    assert names == ["d", "d2", "link", "null", "pipe"]
    assert stat.S_ISCHR((room / "upper/kept").lstat().st_mode)
    assert owner(room / "upper/d2/file") == (65534, 65534)


def test_allow_other_needs_user_allow_other_in_fuse_conf(
    unprivileged: UnprivilegedShell, room: Path
) -> None:
    script = "$fuse $PWD/target -o $options && cat target/d/new && fusermount3 -u target"
    done = unprivileged.run(script, options=f"{layers(room)},allow_other")
    conf = Path("/etc/fuse.conf")
    if conf.exists() and "user_allow_other" in conf.read_text().splitlines():
        assert (done.returncode, done.stdout) == (0, "upper")
    else:
        assert done.returncode == 1
        assert "user_allow_other" in done.stderr


def test_error_names_an_unreadable_layer(unprivileged: UnprivilegedShell, room: Path) -> None:
    (room / "up/d").chmod(0o750)
    done = unprivileged.run("$fuse $PWD/target -o $options", options=layers(room))
    assert done.returncode == 1
    assert f"{room}/up/d: Permission denied" in done.stderr


def test_root_of_a_user_namespace_needs_no_fusermount3(
    unprivileged: UnprivilegedShell, room: Path
) -> None:
    script = """
        set -e
        $fuse -o $options $PWD/target
        rm target/kept; mkdir target/new; chown 0:0 target/new
        grep $PWD/target /proc/self/mounts
        umount $PWD/target
    """
    for path in (*room.rglob("*"),):  # what belongs to who has no id there cannot be removed
        os.chown(path, 65534, 65534, follow_symlinks=False)
    wrap = ("unshare", "--user", "--map-root-user", "--mount")
    done = unprivileged.run(script, *wrap, options=writing(room))
    if "unshare:" in done.stderr:
        pytest.skip(f"no user namespaces: {done.stderr}")
    assert done.returncode == 0, done
    assert "fuse.stacker-fuse" in done.stdout
    assert "nosuid" not in done.stdout
    assert stat.S_ISCHR((room / "upper/kept").lstat().st_mode)
    assert owner(room / "upper/new") == (65534, 65534)
