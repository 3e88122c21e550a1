"""Mounts by a user without privileges, and in user namespaces."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from stacker.fuse.options import FuseAdapter
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.mount.drivers.overlay import OverlayDriver
from stacker.mount.plan import Plan
from tests.support.adapters import ADAPTERS, skip_without
from tests.support.bench import USER_NAMESPACE
from tests.support.unprivileged import UNPRIVILEGED

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount or change to another user"),
    pytest.mark.usefixtures("alone_among_mounts"),
]


# Each kind of caller runs this program: it mounts, reports the result as JSON, and unmounts.
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
    assert ("overlayfs takes the writes" in report["note"]) == (mode == "rw")
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
