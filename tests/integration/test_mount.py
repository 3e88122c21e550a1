"""Mount and unmount end to end: as root, as an unprivileged user and in user namespaces."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stacker.errors import LockedError, MountError, NotFoundError, StackerError, UsageError
from stacker.fuse.options import FuseAdapter
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import mountapi, mountinfo
from stacker.linux.removal import remove_tree
from stacker.mount.attach import attach
from stacker.mount.detach import clear_stale, detach
from stacker.mount.drivers import choose
from stacker.mount.drivers.overlay import Api, OverlayDriver, bind_read_only
from stacker.mount.drivers.protocol import Mounted
from stacker.mount.plan import MountRequest, Plan, StackedImage
from stacker.mount.record import MountRecord
from stacker.mount.table import Table
from tests.support.adapters import ADAPTERS, skip_without
from tests.support.bench import image_of
from tests.support.command import started
from tests.support.mounts import unmount_below
from tests.support.unprivileged import IMPORT_PATH, UNPRIVILEGED

if TYPE_CHECKING:
    from collections.abc import Iterator

USER_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount or change to another user"),
    pytest.mark.usefixtures("alone_among_mounts"),
]


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


def mount(place: Path, *, read_only: bool = True) -> MountRecord:
    wanted = request(place, driver="overlay", read_only=read_only)
    return attach(table(place), wanted, image(place))[0]


def nothing_is_left(place: Path) -> bool:
    directories = place / "mounts"
    return (
        mountinfo.read().below(place) == []
        and (not directories.exists() or os.listdir(directories) == [])
        and os.listdir(place / "target") == []
        and sorted(os.listdir(place)) in (["layers", "target"], ["layers", "mounts", "target"])
    )


def test_mount_is_listed_until_it_is_unmounted(place: Path) -> None:
    record, mounted = attach(table(place), request(place), image(place))
    assert (mounted.driver, mounted.reasons) == ("overlay", ())
    assert sorted(os.listdir(place / "target")) == ["both", "kept"]
    (entry,) = table(place).entries()
    assert (entry.record, entry.state) == (record, "mounted")
    assert (record.image, record.target) == ("image", place / "target")
    assert detach(table(place), place / "target").state == "mounted"
    assert nothing_is_left(place)


def test_umount_finds_a_target_by_symlink_and_relative_path(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount(place)
    (place / "layers/link").symlink_to(place / "target")
    monkeypatch.chdir(place / "layers")
    detach(table(place), Path("link"))
    assert nothing_is_left(place)


def test_second_mount_at_a_target_is_refused_and_changes_nothing(place: Path) -> None:
    record = mount(place)
    with pytest.raises(MountError, match="is busy") as caught:
        mount(place)
    assert caught.value.hint == f"stacker umount {shlex.quote(f'{place}/target')}"
    assert [entry.record for entry in table(place).entries()] == [record]


def test_umount_of_another_programs_mount_is_refused(place: Path) -> None:
    mountapi.mount("somebody", place / "target", "tmpfs", 0)
    for target in (place / "target", place / "missing", place / "layers"):
        with pytest.raises(NotFoundError) as caught:
            detach(table(place), target)
        assert caught.value.exit_code == 3
        assert caught.value.hint == "`stacker mounts` lists the mounts"
    assert mountinfo.at(place / "target") is not None


def test_umount_of_a_busy_mount_names_the_process_that_uses_it(place: Path) -> None:
    record = mount(place, read_only=False)
    with (place / "target/both").open():
        with pytest.raises(MountError, match="it is in use") as caught:
            detach(table(place), place / "target")
        assert f"used by process {os.getpid()}" in caught.value.message
        assert caught.value.hint == "end its use, or detach the mount with --lazy"
        (entry,) = table(place).entries()
        assert (entry.record, entry.state) == (record, "mounted")
    detach(table(place), place / "target")
    assert nothing_is_left(place)


def test_umount_names_the_mount_inside_a_busy_mount(place: Path) -> None:
    (place / "layers/lower/proc").mkdir()
    mount(place)
    mountapi.mount("proc", place / "target/proc", "proc", 0)
    with pytest.raises(MountError) as caught:
        detach(table(place), place / "target")
    assert f"{place}/target/proc is mounted in it" in caught.value.message
    detach(table(place), place / "target", lazy=True)
    assert nothing_is_left(place)


def test_lazy_umount_detaches_a_busy_mount(place: Path) -> None:
    mount(place, read_only=False)
    with (place / "target/both").open() as file:
        detach(table(place), place / "target", lazy=True)
        assert file.read() == "upper"
    assert nothing_is_left(place)


def test_umount_refuses_to_unmount_another_mount_on_top(place: Path) -> None:
    mount(place)
    mountapi.mount("over", place / "target", "tmpfs", 0)
    with pytest.raises(MountError, match="tmpfs over is mounted over it"):
        detach(table(place), place / "target")
    assert len(mountinfo.read().all_at(place / "target")) == 2


@pytest.mark.parametrize("names", [["moved"], ["moved here", "and there"]])
def test_umount_names_each_mount_point_of_a_moved_mount(place: Path, names: list[str]) -> None:
    mount(place, read_only=False)
    for name in names:
        (place / name).mkdir()
        subprocess.run(["mount", "--bind", place / "target", place / name], check=True)
    subprocess.run(["umount", place / "target"], check=True)
    with pytest.raises(MountError, match="the mount was moved to ") as caught:
        detach(table(place), place / "target")
    hint = caught.value.hint or ""
    assert sorted(shlex.split(hint)) == sorted(["umount", *(f"{place}/{name}" for name in names)])
    subprocess.run(hint, shell=True, check=True)  # the hint works when it is pasted


def test_writes_stay_while_a_second_mount_point_exists(place: Path) -> None:
    mount(place, read_only=False)
    (place / "second").mkdir()
    subprocess.run(["mount", "--bind", place / "target", place / "second"], check=True)
    detach(table(place), place / "target")
    (place / "second/new").write_text("still works")
    assert clear_stale(table(place)) == []
    subprocess.run(["umount", place / "second"], check=True)
    assert len(clear_stale(table(place))) == 1
    (place / "second").rmdir()
    assert nothing_is_left(place)


def test_umount_clears_a_mount_that_another_program_unmounted(place: Path) -> None:
    mount(place, read_only=False)
    subprocess.run(["umount", place / "target"], check=True)
    assert detach(table(place), place / "target").state == "stale"
    assert nothing_is_left(place)


def test_umount_of_a_mount_in_another_namespace_prints_the_command(place: Path) -> None:
    command = [*USER_NAMESPACE, sys.executable, "-c", MOUNT_AND_WAIT, str(place)]
    with started(command, b"mounted\n") as child:
        assert mountinfo.at(place / "target") is None
        assert [entry.state for entry in table(place).entries()] == ["elsewhere"]
        assert clear_stale(table(place)) == []
        with pytest.raises(MountError, match="another mount namespace") as caught:
            detach(table(place), place / "target")
        assert caught.value.hint is not None
        assert f"nsenter --mount --target {child} umount" in caught.value.hint
    assert [entry.state for entry in table(place).entries()] == ["stale"]
    assert len(clear_stale(table(place))) == 1
    assert nothing_is_left(place)


MOUNT_AND_WAIT = """
import sys
from pathlib import Path
from stacker.mount.attach import attach
from stacker.layer.paths import Stack
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.mount.plan import MountRequest, StackedImage
from stacker.mount.table import Table
place = Path(sys.argv[1])
layers = (place / "layers/upper", place / "layers/lower")
image = StackedImage("image", Stack(layers, WhiteoutFormat.USER, False))
request = MountRequest(place / "target", "overlay", read_only=False)
attach(Table(place / "mounts"), request, image)
print("mounted", flush=True)
sys.stdin.read()
"""


# The same run for each kind of caller; it tells what happened and undoes it.
RUN = """
import json, os, sys
from pathlib import Path
from stacker.errors import StackerError
from stacker.fuse.options import FuseOptions
from stacker.mount.attach import attach
from stacker.mount.detach import detach
from stacker.layer.paths import Stack
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.mount.plan import MountRequest, StackedImage
from stacker.mount.table import Table
place, driver, namespace, read_only, *adapter = Path(sys.argv[1]), *sys.argv[2:]
layers = (place / "layers/upper", place / "layers/lower")
table = Table(place / "mounts")
image = StackedImage("image", Stack(layers, WhiteoutFormat(namespace), False))
options = FuseOptions(adapter[0], adapter[1:] == ["passthrough"]) if adapter else None
request = MountRequest(place / "target", driver, read_only == "ro", fuse=options)
try:
    record, mounted = attach(table, request, image)
    report = {"driver": mounted.driver, "note": mounted.note, "reasons": mounted.reasons}
    report["tree"] = sorted(os.listdir(place / "target"))
    report["inside"] = os.listdir(place / "target/dir")
    if read_only == "rw":
        (place / "target/new").write_text("x")
    detach(table, place / "target")
except StackerError as error:
    report = {"error": error.message, "hint": error.hint, "exit": error.exit_code}
report |= {"left": os.listdir(place / "target"), "directories": os.listdir(place / "mounts")}
print(json.dumps(report))
"""


class Caller:
    """Runs `RUN` as the owner of the store."""

    def __init__(self, place: Path, python: str) -> None:
        self.place = place
        self._python = python

    def run(self, *arguments: str, as_who: tuple[str, ...], script: str = RUN) -> dict[str, Any]:
        for path in (self.place, *self.place.rglob("*")):
            os.chown(path, 65534, 65534)
        command = [*as_who, self._python, "-c", script, str(self.place), *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        report: dict[str, Any] = json.loads(done.stdout)
        return report


@pytest.fixture
def caller(place: Path, unprivileged_python: str) -> Caller:
    for layer, name in (("lower", "old"), ("upper", "new")):
        (place / "layers" / layer / "dir").mkdir()
        (place / "layers" / layer / "dir" / name).write_text("x")
    os.setxattr(place / "layers/upper/dir", "user.overlay.opaque", b"y")
    os.setxattr(place / "layers/upper/dir", "trusted.overlay.opaque", b"y")
    return Caller(place, unprivileged_python)


@pytest.mark.parametrize("mode", ["ro", "rw"])
@pytest.mark.parametrize("driver", ["auto", "overlay"])
def test_unprivileged_user_gets_an_overlay_in_a_user_namespace(
    caller: Caller, driver: str, mode: str
) -> None:
    report = caller.run(driver, "user", mode, as_who=(*UNPRIVILEGED, *USER_NAMESPACE))
    assert report == {
        "driver": "overlay",
        "note": "in a user namespace",
        "reasons": [],
        "tree": ["both", "dir", "kept"],
        "inside": ["new"],
        "left": [],
        "directories": [],
    }


def test_trusted_layers_are_refused_in_a_user_namespace(caller: Caller) -> None:
    report = caller.run("overlay", "trusted", "ro", as_who=(*UNPRIVILEGED, *USER_NAMESPACE))
    assert report["exit"] == 9
    assert "which only the initial user namespace can read" in report["error"]
    assert (report["left"], report["directories"]) == ([], [])


def where_dev_fuse_is(device: Path) -> tuple[str, ...]:
    """Return the words that run a command in a mount namespace where /dev/fuse is another device.

    Mounts of tests that run meanwhile are copied into it, and would count as mounted elsewhere.
    """
    script = """
    cat /proc/self/mountinfo | while read -r _ _ _ _ point rest; do
        case $rest in *" stacker:"*) umount -l "$(printf %b "$point")" ;; esac
    done
    mount --bind "$0" /dev/fuse && exec "$@"
    """
    return ("unshare", "--mount", "--propagation=slave", "sh", "-c", script, str(device))


@pytest.fixture
def everybodys_fuse(place: Path) -> tuple[str, ...]:
    """Return the words before a command that open /dev/fuse to all users."""
    if not os.path.exists("/dev/fuse") or shutil.which("fusermount3") is None:
        pytest.skip("no /dev/fuse, or no fusermount3")
    device = place / "fuse"
    os.mknod(device, stat.S_IFCHR | 0o666, os.stat("/dev/fuse").st_rdev)
    device.chmod(0o666)
    try:
        os.close(os.open(device, os.O_RDWR))
    except OSError:
        pytest.skip("devices cannot be opened in the directory for temporary files")
    return where_dev_fuse_is(device)


@pytest.mark.parametrize("mode", ["ro", "rw"])
@pytest.mark.parametrize("driver", ["auto", "fuse"])
def test_auto_uses_fusermount3_for_an_unprivileged_user(
    caller: Caller, everybodys_fuse: tuple[str, ...], driver: str, mode: str
) -> None:
    report = caller.run(driver, "user", mode, as_who=(*everybodys_fuse, *UNPRIVILEGED))
    assert report.get("driver") == "fuse", report
    assert len(report["reasons"]) == (driver == "auto")
    assert (report["tree"], report["inside"]) == (["both", "dir", "kept"], ["new"])
    assert (report["left"], report["directories"]) == ([], [])


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_adapter_works_with_fusermount3(
    caller: Caller, everybodys_fuse: tuple[str, ...], adapter: FuseAdapter
) -> None:
    skip_without(adapter)
    report = caller.run("fuse", "user", "ro", adapter, as_who=(*everybodys_fuse, *UNPRIVILEGED))
    assert report.get("driver") == "fuse", report
    assert report["reasons"] == []
    assert (report["left"], report["directories"]) == ([], [])


@pytest.mark.skipif(shutil.which("fuse-overlayfs") is None, reason="no fuse-overlayfs")
@pytest.mark.parametrize("mode", ["ro", "rw"])
def test_fuse_overlayfs_works_with_fusermount3(
    caller: Caller, everybodys_fuse: tuple[str, ...], mode: str
) -> None:
    report = caller.run("fuse-overlayfs", "user", mode, as_who=(*everybodys_fuse, *UNPRIVILEGED))
    assert report.get("driver") == "fuse-overlayfs", report
    assert (report["tree"], report["inside"]) == (["both", "dir", "kept"], ["new"])
    assert (report["left"], report["directories"]) == ([], [])


# Writes by the user who mounted; prints an errno or null for each.
WRITES = """
import errno, json, os, sys
from pathlib import Path
from stacker.mount.attach import attach
from stacker.mount.detach import detach
from stacker.layer.paths import Stack
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.mount.plan import MountRequest, StackedImage
from stacker.mount.table import Table
place = Path(sys.argv[1])
layers = (place / "layers/upper", place / "layers/lower")
table, root = Table(place / "mounts"), place / "target"
image = StackedImage("image", Stack(layers, WhiteoutFormat.USER, False))
request = MountRequest(root, "fuse", read_only=False, upper=place / "changes")
report = {"driver": attach(table, request, image)[1].driver}
def attempt(name, do, *words, **more):
    try:
        do(*words, **more)
        report[name] = None
    except OSError as error:
        report[name] = errno.errorcode[error.errno]
attempt("write", (root / "both").write_bytes, b"changed")
attempt("chmod in a closed directory", os.chmod, root / "closed/file", 0o640)
attempt("write a file closed to all", (root / "closed/file").write_bytes, b"written")
attempt("make in a closed directory", (root / "closed/new").touch)
attempt("give away", os.chown, root / "both", 0, -1)
attempt("keep", os.chown, root / "both", os.getuid(), os.getgid())
attempt("remove", (root / "kept").unlink)
attempt("empty", (root / "dir/new").unlink)
attempt("remove a directory", (root / "dir").rmdir)
attempt("make it again", (root / "dir").mkdir)
attempt("device", os.mknod, root / "null", 0o20666, os.makedev(1, 3))
attempt("link", os.link, root / "both", root / "dir/linked")
attempt("move", os.rename, root / "both", root / "moved")
fd = os.open(root / "locked", os.O_CREAT | os.O_RDWR, 0o000)
attempt("write what is closed", os.write, fd, b"in")
for number in range(200):  # more than the server keeps open
    (root / f"file-{number}").write_bytes(b"x")
attempt("write on", os.write, fd, b"side")
os.close(fd)
report["tree"] = sorted(name for name in os.listdir(root) if not name.startswith("file-"))
report["inside"] = os.listdir(root / "dir")
detach(table, root)
print(json.dumps(report))
"""


def test_unprivileged_user_writes_through_fuse_to_a_persistent_upper(
    caller: Caller, everybodys_fuse: tuple[str, ...]
) -> None:
    closed = caller.place / "layers/lower/closed"
    closed.mkdir()
    (closed / "file").write_bytes(b"closed")
    (closed / "file").chmod(0o444)
    os.setxattr(closed / "file", "user.kind", b"k")
    closed.chmod(0o555)
    report = caller.run(script=WRITES, as_who=(*everybodys_fuse, *UNPRIVILEGED))
    assert {name: error for name, error in report.items() if isinstance(error, str)} == {
        "driver": "fuse",
        "make in a closed directory": "EACCES",
        "give away": "EPERM",
        "device": "EPERM",
    }
    assert report["tree"] == ["closed", "dir", "locked", "moved"]
    assert report["inside"] == ["linked"]
    changes, work = caller.place / "changes", caller.place / "work"
    assert stat.S_IMODE((changes / "closed").stat().st_mode) == 0o555
    assert os.getxattr(changes / "closed/file", "user.kind") == b"k"
    work.mkdir()
    layers = (caller.place / "layers/upper", caller.place / "layers/lower")
    target = caller.place / "target"
    OverlayDriver().mount(Plan("k", target, layers, WhiteoutFormat.USER, False, changes, work))
    shown = sorted(name for name in os.listdir(target) if not name.startswith("file-"))
    assert shown == report["tree"]
    assert os.listdir(target / "dir") == ["linked"]
    assert (target / "moved").read_bytes() == b"changed"
    assert (target / "closed/file").read_bytes() == b"written"
    assert (target / "locked").read_bytes() == b"inside"
    assert (target / "locked").stat().st_mode == stat.S_IFREG
    assert {path.lstat().st_uid for path in changes.rglob("*")} == {65534}


@pytest.mark.parametrize("mode", ["ro", "rw"])
def test_root_of_a_user_namespace_gets_fuse(
    caller: Caller, everybodys_fuse: tuple[str, ...], mode: str
) -> None:
    report = caller.run(
        "fuse", "user", mode, as_who=(*everybodys_fuse, *UNPRIVILEGED, *USER_NAMESPACE)
    )
    assert report.get("driver") == "fuse", report
    assert (report["tree"], report["inside"]) == (["both", "dir", "kept"], ["new"])
    assert (report["left"], report["directories"]) == ([], [])


def test_passthrough_in_a_user_namespace_falls_back_with_a_note(
    caller: Caller, everybodys_fuse: tuple[str, ...]
) -> None:
    who = (*everybodys_fuse, *UNPRIVILEGED, *USER_NAMESPACE)
    report = caller.run("fuse", "user", "ro", "kernel", "passthrough", as_who=who)
    assert report.get("driver") == "fuse", report
    assert "no passthrough" in report["note"]
    assert (report["tree"], report["inside"]) == (["both", "dir", "kept"], ["new"])


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse to hide")
@pytest.mark.parametrize("mode", ["ro", "rw"])
def test_auto_falls_back_to_a_copy_with_reasons(caller: Caller, mode: str) -> None:
    report = caller.run(
        "auto", "user", mode, as_who=(*where_dev_fuse_is(Path("/dev/null")), *UNPRIVILEGED)
    )
    assert report["driver"] == "copy"
    overlay, fuse = report["reasons"]
    assert overlay == (
        f"no permission to mount: {caller.place}/target: this process lacks CAP_SYS_ADMIN"
    )
    assert fuse.startswith("cannot mount with fusermount3")
    assert (report["note"] is not None) == (mode == "ro")
    assert (report["tree"], report["inside"]) == (["both", "dir", "kept"], ["new"])
    assert (report["left"], report["directories"]) == ([], [])


def test_overlay_driver_without_privileges_names_the_missing_capability(caller: Caller) -> None:
    report = caller.run("overlay", "user", "ro", as_who=UNPRIVILEGED)
    assert report["exit"] == 9
    assert "lacks CAP_SYS_ADMIN" in report["error"]
    assert "unshare --user --map-root-user --mount" in report["hint"]
    assert (report["left"], report["directories"]) == ([], [])


def test_copy_in_a_user_namespace_is_bound_read_only(caller: Caller) -> None:
    report = caller.run("copy", "user", "ro", as_who=(*UNPRIVILEGED, *USER_NAMESPACE))
    assert (report["driver"], report["note"]) == ("copy", None)
    assert (report["left"], report["directories"]) == ([], [])


@pytest.mark.parametrize("upper", [None, "changes"])
def test_failed_mount_leaves_no_files_and_no_mount(place: Path, upper: str | None) -> None:
    wanted = request(place, read_only=False, upper=place / upper if upper else None)
    with pytest.raises(MountError, match="missing: No such file"):
        attach(table(place), wanted, image(place, place / "missing"))
    assert nothing_is_left(place)


class InterruptedWhenDone(OverlayDriver):
    """A driver that gets KeyboardInterrupt after its last system call."""

    def mount(self, plan: Plan) -> Mounted:
        super().mount(plan)
        raise KeyboardInterrupt


@pytest.mark.parametrize("upper", [None, "changes"])
def test_interrupted_mount_leaves_no_files_and_no_mount(
    place: Path, monkeypatch: pytest.MonkeyPatch, upper: str | None
) -> None:
    monkeypatch.setattr(choose, "DRIVERS", (InterruptedWhenDone(),))
    wanted = request(place, read_only=False, upper=place / upper if upper else None)
    with pytest.raises(KeyboardInterrupt):
        attach(table(place), wanted, image(place))
    assert nothing_is_left(place)


def test_unknown_driver_is_refused_before_any_change(place: Path) -> None:
    with pytest.raises(UsageError, match="no such mount driver: got 'zfs', want one of auto, "):
        attach(table(place), request(place, driver="zfs"), image(place))
    assert sorted(os.listdir(place)) == ["layers", "target"]


def test_unwritable_mount_table_is_a_mount_error(place: Path) -> None:
    (place / "mounts").write_text("in the way")
    with pytest.raises(MountError, match="mounts: Not a directory"):
        attach(table(place), request(place), image(place))
    assert mountinfo.at(place / "target") is None


def test_full_disk_leaves_no_mount_and_no_directory(place: Path) -> None:
    (place / "mounts").mkdir()
    mountapi.mount("small", place / "mounts", "tmpfs", 0, b"size=4k,nr_inodes=3")
    with pytest.raises(StackerError, match="No space left") as caught:
        attach(table(place), request(place, read_only=False), image(place))
    assert caught.value.exit_code == 1
    assert os.listdir(place / "mounts") == []
    assert mountinfo.at(place / "target") is None


KILLED_AT = """
import os, signal, sys
from pathlib import Path
from stacker.mount import table
from stacker.mount.drivers import choose
from stacker.mount.attach import attach
from stacker.layer.paths import Stack
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.mount.plan import MountRequest, StackedImage
place, moment = Path(sys.argv[1]), sys.argv[2]
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
if moment == "before the record":
    table.Table.write = die
elif moment == "before the mount":
    choose.OverlayDriver.mount = die
layers = (place / "layers/upper", place / "layers/lower")
image = StackedImage("image", Stack(layers, WhiteoutFormat.TRUSTED, False))
request = MountRequest(place / "target", read_only=False, upper=place / "changes")
attach(table.Table(place / "mounts"), request, image)
die()
"""


@pytest.mark.parametrize("moment", ["before the record", "before the mount", "after the mount"])
def test_killed_mount_is_cleared_completely(place: Path, moment: str) -> None:
    command = [sys.executable, "-c", KILLED_AT, str(place), moment]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    if moment == "after the mount":
        detach(table(place), place / "target")
    else:
        assert len(clear_stale(table(place))) == (moment == "before the mount")
        again = request(place, read_only=False, upper=place / "changes")
        attach(table(place), again, image(place))
        detach(table(place), place / "target")
    assert os.listdir(place / "mounts") == []
    assert sorted(os.listdir(place)) == ["changes", "layers", "mounts", "target"]


MOUNT_MANY = """
import sys
from pathlib import Path
from stacker.errors import LockedError, MountError
from stacker.mount.attach import attach
from stacker.mount.detach import clear_stale, detach
from stacker.layer.paths import Stack
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.mount.plan import MountRequest, StackedImage
from stacker.mount.table import Table
place, target = Path(sys.argv[1]), Path(sys.argv[2])
table = Table(place / "mounts")
layers = (place / "layers/upper", place / "layers/lower")
image = StackedImage("image", Stack(layers, WhiteoutFormat.TRUSTED, False))
request = MountRequest(target, read_only=False)
won = 0
for _ in range(40):
    try:
        attach(table, request, image)
    except (LockedError, MountError) as error:
        assert "busy" in error.message or "in use" in error.message, error
        continue
    (target / "new").write_text("x")
    clear_stale(table)
    detach(table, target)
    won += 1
print(won)
"""


@pytest.mark.parametrize("targets", [("target", "target", "target"), ("target", "t2", "t3")])
def test_concurrent_mounts_share_no_target_and_clear_no_other(
    place: Path, targets: tuple[str, ...]
) -> None:
    for name in set(targets):
        (place / name).mkdir(exist_ok=True)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", MOUNT_MANY, str(place), str(place / name)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in targets
    ]
    ended = [(child.communicate(), child.returncode) for child in children]
    for (out, errors), code in ended:
        assert (code, errors) == (0, "")
        assert int(out) == 40 or len(set(targets)) == 1
    assert mountinfo.read().below(place) == []
    assert os.listdir(place / "mounts") == []


def test_umount_of_a_locked_mount_is_refused(place: Path) -> None:
    record = mount(place)
    with table(place).locked(record.id), pytest.raises(LockedError):
        detach(table(place), place / "target")
    assert mountinfo.at(place / "target") is not None


def test_printed_plan_works_with_mount_2(place: Path) -> None:
    odd = place / "o:d,d \\"
    (place / "layers").rename(odd)
    wanted = request(place, read_only=False)
    shown = image_of(odd / "upper", odd / "lower")
    document = wanted.plan(shown, "0a", place / "workspace").to_json()
    directories, mounts = document["directories"], document["mounts"]
    assert isinstance(directories, list)
    assert isinstance(mounts, list)
    for path in directories:
        Path(path).mkdir(parents=True)
    (only,) = mounts
    options = os.fsencode(",".join(option for option in only["options"] if option != "rw"))
    mountapi.mount(only["source"], place / "target", only["type"], 0, options)
    assert (place / "target/both").read_text() == "upper"
    (place / "target/new").write_text("x")
    found = mountinfo.at(place / "target")
    assert found is not None
    assert found.source == "stacker:0a"


@pytest.mark.unmeasured
def test_mount_modules_import_nothing_heavy() -> None:
    code = "import sys, stacker.mount.attach, stacker.mount.detach; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    heavy = {"rich", "urllib3", "trio", "asyncio", "concurrent", "multiprocessing", "subprocess"}
    heavy |= {"tempfile", "shutil", "logging", "ctypes", "cffi", "xattr", "hashlib", "random"}
    heavy |= {"stacker.stack", "stacker.store", "stacker.image", "stacker.layer"}
    assert heavy & set(done.stdout.split()) == set()


@pytest.mark.parametrize("driver", ["overlay", "fuse"])
@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("flags", [set(), {"nosuid"}, {"nodev", "noexec"}])
def test_mount_has_the_flags_of_the_request(
    place: Path, driver: str, read_only: bool, flags: set[str]
) -> None:
    wanted = replace(request(place, driver=driver, read_only=read_only), flags=frozenset(flags))
    attach(table(place), wanted, image(place))
    found = mountinfo.at(place / "target")
    detach(table(place), place / "target")
    assert found is not None
    assert {"nosuid", "nodev", "noexec"} & found.options == flags


@pytest.mark.parametrize("api", ["context", "mount2"])
def test_bind_mount_has_the_flags_of_the_request(place: Path, api: Api) -> None:
    flags = mountapi.MS_RDONLY | mountapi.MS_NOSUID | mountapi.MS_NODEV
    bind_read_only(place / "layers/lower", place / "target", api=api, attributes=flags)
    found = mountinfo.at(place / "target")
    assert found is not None
    assert {"ro", "nosuid", "nodev", "noexec"} & found.options == {"ro", "nosuid", "nodev"}
