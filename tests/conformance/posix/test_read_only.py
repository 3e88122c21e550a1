"""Read-only mounts of every driver: each changing call fails with EROFS.

The control is a plain directory with a read-only bind mount.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stacker.linux import lock
from stacker.linux.removal import remove_tree
from tests.conformance.posix.cases import fails, names
from tests.support import tars
from tests.support.command import Stacker
from tests.support.snapshot import snapshot
from tests.support.stacks import MEMORY
from tests.support.subjects import SUBJECTS, Subject, stock, unmount_by_force
from tests.support.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2
from tests.support.templates import DATA, USUAL, build, members
from tests.support.unprivileged import acting_as

LAYERS = {
    "one layer": [tars.tar(*members(USUAL, b"usual"))],
    "two layers": [tars.tar(*members(half, b"usual")) for half in (USUAL[::2], USUAL)],
}


SHOWN = {f"{subject}, {name}": (subject, name) for subject in SUBJECTS for name in LAYERS}


@pytest.fixture(scope="module", params=SHOWN)
def tree(request: pytest.FixtureRequest, mounts_lock: Path) -> Iterator[Path]:
    """Yield a read-only mount with the usual files."""
    if os.geteuid() != 0:
        pytest.skip("mounts, and becomes others: needs root")
    subject, layers = SHOWN[request.param]
    if subject.missing is not None:
        pytest.skip(subject.missing)
    workspace = Path(tempfile.mkdtemp(dir=MEMORY, prefix="stacker-posix-"))
    workspace.chmod(0o755)
    try:
        with lock.exclusive(mounts_lock):
            _show(workspace, subject, LAYERS[layers])
        yield workspace / "target/usual"
    finally:
        with lock.exclusive(mounts_lock):
            if subject.words is not None and (workspace / "store").exists():
                Stacker(workspace / "store").run("umount", workspace / "target")
            unmount_by_force(workspace / "target")
        remove_tree(workspace) if subject.words else shutil.rmtree(workspace)


def _show(workspace: Path, subject: Subject, layers: list[bytes]) -> None:
    target = workspace / "target"
    target.mkdir()
    if subject.words is not None:
        stock(workspace, subject.form, layers)
        Stacker(workspace / "store")("mount", *subject.words, "app:1.0", target)
        return
    (target / "usual").mkdir()
    build(USUAL, target / "usual")
    subprocess.run(["mount", "--bind", "-o", "ro", target, target], check=True)


Operation = Callable[[Path], object]
OPERATIONS: dict[str, Operation] = {
    "mkdir": lambda at: os.mkdir(at / "new"),
    "mkdir in a directory": lambda at: os.mkdir(at / "full/sub/new"),
    "rmdir": lambda at: os.rmdir(at / "hollow"),
    "rmdir of a full one": lambda at: os.rmdir(at / "full"),
    "unlink": lambda at: os.unlink(at / "file"),
    "unlink of a symlink": lambda at: os.unlink(at / "link"),
    "unlink of a fifo": lambda at: os.unlink(at / "fifo"),
    "symlink": lambda at: os.symlink("x", at / "new"),
    "link": lambda at: os.link(at / "file", at / "new"),
    "link of a symlink": lambda at: os.link(at / "link", at / "new", follow_symlinks=False),
    "rename": lambda at: os.rename(at / "file", at / "new"),
    "rename over": lambda at: os.rename(at / "file", at / "other"),
    "rename of a directory": lambda at: os.rename(at / "full", at / "new"),
    "rename, no replacing": lambda at: renameat2(at / "file", at / "new", RENAME_NOREPLACE),
    "rename, exchanging": lambda at: renameat2(at / "file", at / "other", RENAME_EXCHANGE),
    "mkfifo": lambda at: os.mkfifo(at / "new"),
    "mknod": lambda at: os.mknod(at / "new", stat.S_IFCHR | 0o600, os.makedev(1, 3)),
    "mknod of a file": lambda at: os.mknod(at / "new", stat.S_IFREG | 0o600),
    "chmod": lambda at: os.chmod(at / "file", 0o600),
    "chmod to the same": lambda at: os.chmod(at / "file", 0o644),
    "chmod of a directory": lambda at: os.chmod(at / "full", 0o700),
    "chmod through a symlink": lambda at: os.chmod(at / "link", 0o600),
    "chown": lambda at: os.chown(at / "file", 1, 1),
    "lchown": lambda at: os.lchown(at / "link", 1, 1),
    "chown of a directory": lambda at: os.chown(at / "full", 1, 1),
    "utimensat": lambda at: os.utime(at / "file", (1, 1)),
    "utimensat now": lambda at: os.utime(at / "file"),
    "utimensat of a symlink": lambda at: os.utime(at / "link", (1, 1), follow_symlinks=False),
    "truncate": lambda at: os.truncate(at / "file", 0),
    "truncate to the same": lambda at: os.truncate(at / "file", len(DATA)),
    "open for writing": lambda at: os.open(at / "file", os.O_WRONLY),
    "open for both": lambda at: os.open(at / "file", os.O_RDWR),
    "open for appending": lambda at: os.open(at / "file", os.O_WRONLY | os.O_APPEND),
    "open, truncating": lambda at: os.open(at / "file", os.O_RDONLY | os.O_TRUNC),
    "open through a symlink": lambda at: os.open(at / "link", os.O_WRONLY),
    "open, creating": lambda at: os.open(at / "new", os.O_CREAT | os.O_WRONLY),
    "open, creating to read": lambda at: os.open(at / "new", os.O_CREAT | os.O_RDONLY),
    "open, exclusively": lambda at: os.open(at / "new", os.O_CREAT | os.O_EXCL | os.O_WRONLY),
    "open through a dangling symlink": lambda at: os.open(at / "dangling", os.O_CREAT | os.O_RDWR),
    "setxattr": lambda at: os.setxattr(at / "file", "user.x", b"1"),
    "setxattr, trusted": lambda at: os.setxattr(at / "full", "trusted.x", b"1"),
    "removexattr": lambda at: os.removexattr(at / "noted", "user.note"),
    "removexattr of none": lambda at: os.removexattr(at / "file", "user.none"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_changing_call_fails_with_erofs(tree: Path, operation: str) -> None:
    with fails(errno.EROFS):
        OPERATIONS[operation](tree)


@pytest.mark.parametrize(
    ("path", "flags"),
    [
        ("everybodys", os.O_RDWR),
        ("mine", os.O_WRONLY | os.O_TRUNC),
        ("open/new", os.O_CREAT | os.O_WRONLY),
    ],
)
def test_every_changing_call_of_an_unprivileged_user_fails(
    tree: Path, path: str, flags: int
) -> None:
    with acting_as(), fails(errno.EROFS):
        os.open(tree / path, flags)


@pytest.mark.parametrize(
    ("operation", "number"),
    [
        (lambda at: os.mkdir(at / "full"), errno.EEXIST),
        (lambda at: os.open(at / "missing", os.O_RDWR), errno.ENOENT),
        (lambda at: os.truncate(at / "full", 0), errno.EISDIR),
        (lambda at: os.open(at / "file", os.O_CREAT | os.O_EXCL | os.O_RDWR), errno.EEXIST),
        (lambda at: os.chmod(at / "missing", 0o600), errno.ENOENT),
    ],
    ids=["mkdir", "open", "truncate", "exclusively", "chmod"],
)
def test_other_errors_precede_erofs(tree: Path, operation: Operation, number: int) -> None:
    with fails(number):
        operation(tree)


@pytest.mark.parametrize("path", ["file", "full", "everybodys"])
def test_access_reports_no_write_permission(tree: Path, path: str) -> None:
    assert os.access(tree / path, os.R_OK)
    assert not os.access(tree / path, os.W_OK)
    assert os.statvfs(tree / path).f_flag & os.ST_RDONLY


def test_reading_works_and_changes_nothing(tree: Path) -> None:
    before = snapshot(tree)
    for operation in OPERATIONS.values():
        with fails(errno.EROFS):
            operation(tree)
    assert snapshot(tree) == before
    assert (tree / "link").read_bytes() == DATA
    assert names(tree / "dirlink") == {"inner", "sub"}
    with acting_as(), fails(errno.EACCES):
        os.stat(tree / "closed/inside")
    with acting_as():
        assert (tree / "unlisted/inside").read_bytes() == b"inside"


@pytest.mark.about_mounts
def test_driver_accepts_or_refuses_rw_as_listed(tree: Path, request: pytest.FixtureRequest) -> None:
    subject, _ = SHOWN[request.node.callspec.params["tree"]]
    assert subject.words is not None
    workspace = tree.parents[1]
    (workspace / "second").mkdir()
    try:
        stacker = Stacker(workspace / "store")
        code = stacker.run("mount", "--rw", *subject.words, "app:1.0", workspace / "second").code
        assert code == (0 if subject.writes else 7), "tests/subjects.py is out of date"
        if subject.writes:
            stacker("umount", workspace / "second")
    finally:
        unmount_by_force(workspace / "second")
        (workspace / "second").rmdir()
