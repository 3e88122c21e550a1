"""mkfifo(3), mknod(2), and bind(2) of a socket."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading

import pytest

from tests.conformance.posix.cases import changing, fails, names, opened
from tests.support.deviations import Deviation
from tests.support.subjects import CaseDirectory
from tests.support.unprivileged import acting_as

KINDS = {
    "fifo": (stat.S_IFIFO, 0),
    "char": (stat.S_IFCHR, os.makedev(1, 3)),
    "block": (stat.S_IFBLK, os.makedev(259, 1_000_000)),
    "socket": (stat.S_IFSOCK, 0),
    "file": (stat.S_IFREG, 0),
}


@pytest.mark.parametrize("mode", [0o644, 0o777, 0o1000])
@pytest.mark.parametrize("node", KINDS)
def test_node_has_its_type_mode_and_device(case: CaseDirectory, node: str, mode: int) -> None:
    kind, device = KINDS[node]
    with changing(case / "full", times="mtime ctime"):
        os.mknod(case / "full/new", kind | mode, device)
    status = os.lstat(case / "full/new")
    assert status.st_mode == kind | mode & ~0o022
    assert status.st_rdev == device
    assert (status.st_nlink, status.st_size, status.st_uid) == (1, 0, 0)
    os.chmod(case / "full/new", 0o600)
    os.rename(case / "full/new", case / "moved")
    assert os.lstat(case / "moved").st_rdev == device
    os.unlink(case / "moved")
    assert "moved" not in names(case.path)


@pytest.mark.parametrize("name", ["file", "hollow", "link", "dangling", "fifo"])
@pytest.mark.parametrize("node", ["fifo", "char"])
def test_mknod_on_an_existing_name_fails(case: CaseDirectory, name: str, node: str) -> None:
    kind, device = KINDS[node]
    with fails(errno.EEXIST):
        os.mknod(case / name, kind | 0o644, device)


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("missing/new", errno.ENOENT),
        ("file/new", errno.ENOTDIR),
        ("loop/new", errno.ELOOP),
        ("n" * 256, errno.ENAMETOOLONG),
    ],
    ids=lambda value: str(value)[:12],
)
def test_mknod_below_a_missing_path_fails(case: CaseDirectory, path: str, number: int) -> None:
    with fails(number):
        os.mkfifo(case / path)


@pytest.mark.parametrize("node", ["char", "block"])
def test_unprivileged_user_cannot_make_devices(case: CaseDirectory, node: str) -> None:
    kind, device = KINDS[node]
    with acting_as(), fails(errno.EPERM):
        os.mknod(case / "open/new", kind | 0o644, device)
    with acting_as():
        os.mkfifo(case / "open/new")
        with fails(errno.EACCES):
            os.mkfifo(case / "full/new")
    assert os.lstat(case / "open/new").st_uid == 65534


def test_device_0_0_is_made_or_refused_as_documented(case: CaseDirectory) -> None:
    if case.deviates(Deviation.NO_DEVICE_ZERO):
        with fails(errno.EPERM):
            os.mknod(case / "new", stat.S_IFCHR | 0o644, 0)
        assert "new" not in names(case.path)
    else:
        os.mknod(case / "new", stat.S_IFCHR | 0o644, 0)
        assert stat.S_ISCHR(os.lstat(case / "new").st_mode)
        assert "new" in names(case.path)


@pytest.mark.parametrize("name", ["fifo", "new"])
def test_fifo_transfers_bytes(case: CaseDirectory, name: str) -> None:
    if name == "new":
        os.mkfifo(case / name)
    with (
        opened(case / name, os.O_RDONLY | os.O_NONBLOCK) as reader,
        opened(case / name, os.O_WRONLY) as writer,
    ):
        os.write(writer, b"through")
        assert os.read(reader, 100) == b"through"


@pytest.mark.parametrize("change", ["chmod", "chown", "rename", "link"])
def test_fifo_keeps_its_identity_through_changes(case: CaseDirectory, change: str) -> None:
    name = "fifo"
    with opened(case / name, os.O_RDONLY | os.O_NONBLOCK) as reader:
        before = os.fstat(reader).st_ino
        match change:
            case "chmod":
                os.chmod(case / name, 0o600)
            case "chown":
                os.chown(case / name, 1, 1)
            case "rename":
                os.rename(case / name, case / "new")
                name = "new"
            case _:
                os.link(case / name, case / "new")
                name = "new"
        assert os.lstat(case / name).st_ino == before


def test_socket_can_be_bound_and_connected(
    case: CaseDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(case.path)  # an address has 107 bytes
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("sock")
        server.listen()
        assert stat.S_ISSOCK(os.lstat(case / "sock").st_mode)
        thread = threading.Thread(target=lambda: client.connect("sock"))
        thread.start()
        server.accept()[0].close()
        thread.join()
    os.unlink("sock")
    assert "sock" not in names(case.path)
