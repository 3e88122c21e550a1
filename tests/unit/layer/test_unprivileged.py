"""Unpacking without privileges: the user owns every file, and whiteouts are ``user.overlay.*``."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import stacker
from stacker.layer.metadata import IDENTITY, SQUASH
from tests.support.tars import (
    block,
    char,
    dir,  # noqa: A004 - the word for it
    fifo,
    file,
    hardlink,
    opaque,
    pax,
    symlink,
    tar,
    whiteout,
)
from tests.support.unpacking import Workspace

UNPRIVILEGED = """
import sys
from pathlib import Path
from stacker.layer.apply import apply
from stacker.layer.metadata import {idmap}
from stacker.layer.paths import LayerPaths
from stacker.layer.skeleton import SkeletonWriter, reassemble
from stacker.tar.reader import TarReader
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.errors import StackerError

workspace, stream = Path(sys.argv[1]), sys.stdin.buffer.read()
paths = LayerPaths(workspace)
paths.diff.mkdir()
with paths.skeleton.open("wb") as file:
    skeleton = SkeletonWriter(file)
    try:
        record = apply(
            TarReader(iter([stream]), what="test", keep=skeleton.keep), paths.diff,
            replaced=paths.replaced, whiteout_format=WhiteoutFormat.USER, idmap={idmap},
        )
    except StackerError as error:
        sys.exit(f"{{type(error).__name__}}: {{error}} ({{error.hint}})")
    skeleton.finish()
again = b"".join(reassemble(paths, record, what="test"))
assert again == stream
print(*record.warnings, sep="\\n")
"""


def _as_nobody(
    workspace: Path, stream: bytes, idmap: str = "SQUASH"
) -> subprocess.CompletedProcess[bytes]:
    """Unpack as an unprivileged user who can import the package and write to ``workspace``."""
    package = workspace / "package"
    shutil.copytree(Path(stacker.__file__).parent, package / "stacker")
    for path in [package, *package.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    os.chmod(workspace, 0o777)
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    python = [*nobody, sys.executable, "-B", "-c"]
    environment = {"PYTHONPATH": str(package), "PATH": os.environ["PATH"]}
    if subprocess.run(
        [*python, "import xattr, zstandard"], check=False, env=environment
    ).returncode:
        pytest.skip("no Python interpreter for an unprivileged user")
    return subprocess.run(
        [*python, UNPRIVILEGED.format(idmap=idmap), str(workspace)],
        input=stream,
        capture_output=True,
        check=False,
        env=environment,
    )


needs_setpriv = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="becomes another user: needs root and setpriv",
)


@pytest.fixture
def open_path(tmp_path: Path) -> Path:
    """Yield a directory that any user can reach."""
    path = tmp_path
    while path != path.parent:
        if path.stat().st_uid == os.geteuid() and not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)
        path = path.parent
    return tmp_path


@needs_setpriv
def test_unprivileged_user_unpacks_squashed(open_path: Path) -> None:
    done = _as_nobody(
        open_path,
        tar(
            dir("", mode=0o755, uid=0),
            file("f", b"1", uid=1000, gid=1000, mode=0o4711),
            file("read-only", b"2", mode=0o400, xattrs={"user.a": b"\0"}),
            dir("closed", mode=0o500, xattrs={"user.overlay.opaque": b"y"}),
            file("closed/x", b"3"),
            dir("closed/deeper", mode=0o500),
            file("closed/deeper/y", b"4"),
            symlink("l", "f", uid=5),
            hardlink("h", "f"),
            fifo("p", mode=0o666),
            whiteout("w"),
            opaque("d"),
            file("t", xattrs={"trusted.x": b"1", "security.capability": b"bad"}),
            char("null", 1, 3),
            block("sda", 8, 0),
        ),
    )
    assert done.returncode == 0, done.stderr.decode()
    diff = open_path / "diff"
    assert {path.lstat().st_uid for path in [diff, *diff.rglob("*")]} == {65534}
    assert (diff / "f").stat().st_mode & 0o7777 == 0o4711
    assert (diff / "read-only").stat().st_mode & 0o7777 == 0o400
    assert os.getxattr(diff / "read-only", "user.a") == b"\0"
    assert (diff / "closed").stat().st_mode & 0o7777 == 0o500
    assert os.listxattr(diff / "closed") == ["user.overlay.overlay.opaque"]
    assert (diff / "closed/deeper/y").read_bytes() == b"4"
    assert os.getxattr(diff / "d", "user.overlay.opaque") == b"y"
    for name in ("w", "null", "sda"):  # an omitted device still hides a lower file
        status = (diff / name).lstat()
        assert stat.S_ISCHR(status.st_mode)
        assert status.st_rdev == 0
    warnings = done.stdout.decode()
    assert "omitted devices: null and others" in warnings
    assert "omitted xattrs: trusted.x" in warnings
    assert len(warnings.splitlines()) == 3


@needs_setpriv
def test_identity_map_without_privileges_fails_with_a_hint(open_path: Path) -> None:
    done = _as_nobody(open_path, tar(file("f", uid=1000)), "IDENTITY")
    assert done.returncode == 1
    assert (
        b"StackerError: cannot unpack: test: f: Operation not permitted (unpack as root"
        in done.stderr
    )


def test_record_tells_whether_owners_are_squashed(workspace: Workspace) -> None:
    assert workspace.unpack(file("f"), idmap=SQUASH).record.squashed
    if os.geteuid() == 0:
        assert not workspace.unpack(file("f"), idmap=IDENTITY).record.squashed


def test_counts_match_the_stream(workspace: Workspace) -> None:
    layer = workspace.unpack(
        pax(comment="x"), file("a", b"123"), file("b", b"4567"), dir("d"), whiteout("w"), file("a")
    )
    record = layer.record
    assert (record.entries, record.files, record.file_bytes, record.whiteouts) == (5, 3, 7, 1)
