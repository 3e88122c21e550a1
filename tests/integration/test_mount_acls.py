"""POSIX ACLs of layers: each driver enforces and reports the same, as the kernel's overlay does."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import images, tars
from tests.support.acls import ACCESS, DEFAULT, for_user
from tests.support.command import Stacker
from tests.support.mounts import unmount_below
from tests.support.stacks import scratch
from tests.support.subjects import SUBJECTS, Subject
from tests.support.unprivileged import acting_as

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts, and becomes other users: needs root"),
    pytest.mark.usefixtures("alone_among_mounts"),
]
ALLOWED, DENIED = 1234, 1235
MOUNTS = [
    pytest.param((subject, rw), id=f"{subject}-{'rw' if rw else 'ro'}")
    for subject in SUBJECTS
    if subject.is_mount
    for rw in ((False, True) if subject.writes else (False,))
]
LAYERS = [
    tars.tar(
        tars.dir("./"),
        tars.dir("inherits/", xattrs={DEFAULT: for_user(ALLOWED, 7)}),
        tars.dir("open/", mode=0o770, xattrs={ACCESS: for_user(ALLOWED, 5)}),
        tars.file("open/inside", b"inside"),
        # The ACL grants reading, and then the mode of the header narrows its mask.
        tars.file("narrowed", b"narrowed", mode=0o600, xattrs={ACCESS: for_user(ALLOWED, 6)}),
    ),
    tars.tar(tars.file("file", b"data", mode=0o660, xattrs={ACCESS: for_user(ALLOWED, 4)})),
]


@pytest.fixture
def workspace() -> Iterator[Path]:
    with scratch() as workspace:
        workspace.chmod(0o755)  # other users reach the mount
        yield workspace
        unmount_below(workspace)


@pytest.fixture(params=MOUNTS)
def mounted(request: pytest.FixtureRequest, workspace: Path) -> tuple[Path, bool]:
    """Mount the layers; return the target, and whether it is writable."""
    subject: Subject
    subject, rw = request.param
    return mount(workspace, subject, rw=rw), rw


def mount(workspace: Path, subject: Subject, *, rw: bool) -> Path:
    if subject.missing is not None:
        pytest.skip(subject.missing)
    stacker, target = Stacker(workspace / "store"), workspace / "target"
    target.mkdir()
    layout = images.layout(workspace / "app", LAYERS)
    stacker("pull", "--form", subject.form, layout.source)
    words = (*(subject.words or ()), *(("--rw",) if rw else ()))
    stacker("mount", *words, "app:1.0", target)
    return target


def may_open(path: Path, flags: int, uid: int) -> bool:
    with acting_as(uid, uid):
        try:
            os.close(os.open(path, flags))
        except OSError as error:
            assert error.errno == errno.EACCES  # noqa: PT017 - anything else is a failure
            return False
    return True


def test_acl_of_a_layer_grants_access_to_the_user_it_names(mounted: tuple[Path, bool]) -> None:
    target, rw = mounted
    for name in ("file", "open/inside"):
        assert may_open(target / name, os.O_RDONLY, ALLOWED)
    assert not may_open(target / "file", os.O_RDONLY, DENIED)
    assert not may_open(target / "open/inside", os.O_RDONLY, DENIED)
    if rw:
        assert not may_open(target / "file", os.O_RDWR, ALLOWED)


def test_mode_of_the_header_is_the_mask_of_the_acl(mounted: tuple[Path, bool]) -> None:
    path = mounted[0] / "narrowed"
    assert os.getxattr(path, ACCESS) == for_user(ALLOWED, 6, mask=0)
    assert not may_open(path, os.O_RDONLY, ALLOWED)


def test_acls_of_a_layer_are_reported(mounted: tuple[Path, bool]) -> None:
    target, _ = mounted
    assert os.getxattr(target / "file", ACCESS) == for_user(ALLOWED, 4, mask=6)
    assert os.getxattr(target / "inherits", DEFAULT) == for_user(ALLOWED, 7)
    assert os.listxattr(target / "inherits") == [DEFAULT]
    assert stat.S_IMODE(os.stat(target / "file").st_mode) == 0o660


def test_directory_of_a_layer_passes_its_default_acl_on(mounted: tuple[Path, bool]) -> None:
    target, rw = mounted
    if not rw:
        with pytest.raises(OSError, match="Read-only") as caught:
            os.setxattr(target / "file", ACCESS, for_user(DENIED, 4))
        assert caught.value.errno == errno.EROFS
        return
    (target / "inherits/new").touch(0o666)
    assert os.getxattr(target / "inherits/new", ACCESS) == for_user(ALLOWED, 7, mask=6)
    assert may_open(target / "inherits/new", os.O_RDWR, ALLOWED)
    os.chmod(target / "file", 0o600)
    assert not may_open(target / "file", os.O_RDONLY, ALLOWED)


@pytest.mark.skipif(not shutil.which("setfacl"), reason="no setfacl: the package acl")
def test_setfacl_of_a_normal_user_equals_that_of_a_plain_directory(
    mounted: tuple[Path, bool], workspace: Path
) -> None:
    target, rw = mounted
    if not rw:
        done = subprocess.run(
            ["setfacl", "-m", "u:7:r", target / "file"], check=False, capture_output=True
        )
        assert b"Read-only file system" in done.stderr
        return
    plain, seen = workspace / "plain", []
    plain.mkdir()
    for top in (plain, target):
        mine = top / "mine"
        mine.mkdir()
        os.chown(mine, DENIED, DENIED)
        script = (
            f"cd {mine} && umask 027 && setfacl -d -m u:9:rwx . && touch a && mkdir b && touch b/c"
            " && setfacl -m u:7:rx a b && setfacl -d -m g:8:w b && touch b/d && setfacl -x u:7 a"
            " && chmod 640 b/c && getfacl -n . a b b/c b/d"
        )
        command = ["setpriv", f"--reuid={DENIED}", f"--regid={DENIED}", "--clear-groups"]
        done = subprocess.run([*command, "sh", "-c", script], capture_output=True, check=True)
        seen.append(done.stdout)
    assert b"user:9:rwx" in seen[0]
    assert seen[0] == seen[1]
