"""`stacker info` and `pull --form auto`, on real filesystems and in user namespaces."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stacker.linux import mountapi
from stacker.tar.limits import Limits
from tests.support import images
from tests.support.command import Stacker, at_home, conforming
from tests.support.mounts import unmount_below
from tests.support.tars import file, tar
from tests.support.unprivileged import UNPRIVILEGED
from tests.torture.disk import Disk

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts filesystems: needs root"),
    pytest.mark.usefixtures("alone_among_mounts"),
]
IN_USER_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
WITHOUT_FUSE = (*IN_USER_NAMESPACE, "sh", "-c", 'mount -t tmpfs none /dev && exec "$@"', "sh")
NEEDS_INITIAL = "a mount of EROFS requires CAP_SYS_ADMIN in the initial user namespace"
HAS_FILE_MOUNTS = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 12)
needs_erofs = pytest.mark.skipif(
    "erofs" not in Path("/proc/filesystems").read_text().split(), reason="the kernel has no EROFS"
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    ext4 = Disk(tmp_path / "disk.img", tmp_path / "disk", "ext4")
    ext4.format()
    ext4.mount()
    yield ext4.path
    unmount_below(tmp_path)
    ext4.remove()


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "memory"
    path.mkdir()
    mountapi.mount("none", path, "tmpfs", 0)
    yield path
    unmount_below(tmp_path)


@pytest.fixture
def app(tmp_path: Path) -> images.Layout:
    return images.layout(tmp_path / "app", [tar(file("a", b"1"))])


def info(stacker: Stacker) -> dict[str, Any]:
    item: dict[str, Any] = conforming(stacker("info", "--json").document)["item"]
    return item


def features(item: dict[str, Any]) -> dict[str, tuple[bool | None, str]]:
    return {each["name"]: (each["works"], each["reason"]) for each in item["features"]}


def driver_of(item: dict[str, Any], form: str) -> str:
    name: str = item["driver_auto"][form]["driver"]
    return name


def pulled_forms(stacker: Stacker, app: images.Layout) -> list[str]:
    stacker("pull", "--no-sync", "--form", "auto", app.source)
    [layer] = json.loads(stacker("layers", "--json", app.image.config).out)["items"]
    forms: list[str] = layer["forms"]
    return forms


@needs_erofs
def test_auto_takes_erofs_on_ext4_where_the_kernel_mounts_from_files(
    disk: Path, app: images.Layout
) -> None:
    stacker = Stacker(disk / "store")
    item = info(stacker)
    assert item["form_auto"]["form"] == "erofs"
    assert driver_of(item, "erofs") == "overlay"
    assert features(item)["erofs-files"][0] is HAS_FILE_MOUNTS
    assert features(item)["filesystem"][1].startswith(f"ext4 at {disk}, ")
    assert pulled_forms(stacker, app) == ["erofs"]


@needs_erofs
def test_auto_takes_trees_on_tmpfs_instead_of_loop_devices(
    memory: Path, app: images.Layout
) -> None:
    stacker = Stacker(memory / "store")
    item = info(stacker)
    works, reason = features(item)["erofs-files"]
    assert works is False
    assert "not tmpfs" in reason
    assert features(item)["erofs-loop"][0] is True
    reason = "the store is in memory (tmpfs), where files cost little"
    assert item["form_auto"] == {"form": "tree", "reason": reason}
    assert pulled_forms(stacker, app) == ["tree"]


def test_auto_takes_erofs_in_a_user_namespace_that_fuse_can_serve(
    tmp_path: Path, app: images.Layout
) -> None:
    stacker = Stacker(tmp_path / "store", wrap=IN_USER_NAMESPACE)
    item = info(stacker)
    assert item["initial_user_namespace"] is False
    assert features(item)["erofs-files"] == (False, NEEDS_INITIAL)
    assert features(item)["erofs-loop"] == (False, NEEDS_INITIAL)
    assert features(item)["fuse"][0] is True
    assert item["form_auto"]["form"] == "erofs"
    assert item["form_auto"]["reason"].startswith("FUSE mounts work; ")
    assert driver_of(item, "erofs") == "fuse"
    assert driver_of(item, "tree") == "overlay"
    assert pulled_forms(stacker, app) == ["erofs"]
    assert info(stacker)["form_auto"] == item["form_auto"]


def test_auto_takes_trees_where_neither_the_kernel_nor_fuse_can_mount(
    tmp_path: Path, app: images.Layout
) -> None:
    stacker = Stacker(tmp_path / "store", wrap=WITHOUT_FUSE)
    item = info(stacker)
    assert features(item)["fuse"] == (False, "FUSE is not available: /dev/fuse does not exist")
    assert item["form_auto"]["form"] == "tree"
    assert "/dev/fuse does not exist" in item["form_auto"]["reason"]
    assert driver_of(item, "erofs") == "copy"
    assert driver_of(item, "tree") == "overlay"
    assert pulled_forms(stacker, app) == ["tree"]


def test_auto_says_its_reason_when_pull_is_verbose(tmp_path: Path, app: images.Layout) -> None:
    stacker = Stacker(tmp_path / "store", wrap=WITHOUT_FUSE)
    err = stacker("pull", "-v", "--no-sync", "--form", "auto", app.source).err
    assert f"form tree: {info(stacker)['form_auto']['reason']}" in err.splitlines()


def test_info_of_a_missing_store_creates_nothing(tmp_path: Path) -> None:
    above = tmp_path / "above"
    above.mkdir()
    before = above.stat()
    item = info(Stacker(above / "not" / "yet"))
    assert features(item)["store"] == (True, "missing")
    assert os.listdir(above) == []
    assert above.stat().st_mtime_ns == before.st_mtime_ns
    assert item["store"] == str(above / "not" / "yet")


def test_info_changes_no_file_of_a_store(tmp_path: Path, app: images.Layout) -> None:
    stacker = at_home(tmp_path)
    stacker("pull", "--sync", app.source)

    def files() -> dict[Path, tuple[int, int]]:
        found = {path: path.lstat() for path in stacker.store.rglob("*")}
        return {path: (status.st_ino, status.st_mtime_ns) for path, status in found.items()}

    before = files()
    item = info(stacker)
    assert features(item)["store"] == (
        *(True, "exists, 1 layers in the form tree, 0 layers in the form erofs"),
    )
    assert features(item)["overlay"] == (True, "the kernel stacks directories of the store")
    assert files() == before
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_info_of_a_read_only_store_says_so(disk: Path, app: images.Layout) -> None:
    stacker = Stacker(disk / "store")
    stacker("pull", "--sync", app.source)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    found = features(info(stacker))
    assert found["store"][0] is True
    assert found["filesystem"] == (False, f"ext4 at {disk}, read-only")
    assert found["o-tmpfile"] == (False, f"{stacker.store}: Read-only file system")
    assert found["overlay"][0] is True


def test_info_of_a_directory_that_is_no_store_gives_the_reason(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "file").touch()
    works, reason = features(info(Stacker(tmp_path / "store")))["store"]
    assert works is False
    assert reason.startswith("not a store: ")


def test_info_names_the_user_and_what_the_user_lacks(unprivileged_python: str) -> None:
    stacker = Stacker(Path("/missing/store"), wrap=UNPRIVILEGED, python=unprivileged_python)
    item = info(stacker)
    assert (item["uid"], item["cap_sys_admin"]) == (65534, False)
    assert features(item)["erofs-files"] == (False, NEEDS_INITIAL)
    assert features(item)["overlay"][1].endswith("this process lacks CAP_SYS_ADMIN")
    assert features(item)["idmapped-mounts"] == (False, "/: Operation not permitted")


def test_info_names_missing_tools(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    helper = tmp_path / "bin" / "fusermount3"
    shutil.copy("/bin/true", helper)
    stacker = Stacker(tmp_path / "store", environ={"PATH": str(helper.parent)})
    tools = dict.fromkeys(("fuse-overlayfs", "tar2sqfs", "sqfstar"))
    assert info(stacker)["tools"] == {"fusermount3": str(helper), **tools}


def test_info_shows_the_limits_of_the_configuration_file(tmp_path: Path) -> None:
    (tmp_path / "stacker").mkdir()
    (tmp_path / "stacker" / "config.toml").write_text('[limits]\nmax-bytes = "3G"\n')
    limits = info(Stacker(tmp_path / "store", environ={"XDG_CONFIG_HOME": str(tmp_path)}))["limits"]
    assert limits["max_bytes"] == 3 << 30
    assert limits["max_depth"] == Limits().depth
    assert limits["open_files"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_info_shows_each_key_of_the_configuration_files(tmp_path: Path) -> None:
    (tmp_path / "stacker").mkdir()
    path = tmp_path / "stacker" / "config.toml"
    path.write_text('additional-stores = ["/srv/a"]\ndriver = "copy"\n[limits]\nmax-depth = 7\n')
    stacker = Stacker(tmp_path / "store", environ={"XDG_CONFIG_HOME": str(tmp_path)})
    item = info(stacker)
    assert item["config"] == [
        {"key": key, "value": value, "file": str(path)}
        for key, value in (
            ("additional-stores", ["/srv/a"]),
            ("driver", "copy"),
            ("limits.max-depth", 7),
        )
    ]
    assert item["additional_stores"] == ["/srv/a"]
    assert f"driver = copy ({path})" in stacker("info").out


def test_info_shows_the_id_ranges_of_the_user_namespace(tmp_path: Path) -> None:
    item = info(Stacker(tmp_path / "store", wrap=IN_USER_NAMESPACE))
    assert [item["uids"][0][key] for key in ("inside", "count")] == [0, 1]
    assert len(item["gids"]) == 1


def test_info_says_whether_user_namespaces_and_idmapped_mounts_work(disk: Path) -> None:
    found = features(info(Stacker(disk / "store")))
    assert found["user-namespaces"][0] is True
    assert found["idmapped-mounts"][0] is True  # ext4 has them since Linux 5.12


def test_info_says_that_user_namespaces_are_disabled(tmp_path: Path) -> None:
    disable = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    wrap = (*IN_USER_NAMESPACE, "sh", "-c", disable, "sh")
    found = features(info(Stacker(tmp_path / "store", wrap=wrap)))
    refused = (False, "No space left on device")
    assert found["user-namespaces"] == found["idmapped-mounts"] == refused


@contextmanager
def silent_fuse(target: Path) -> Iterator[None]:
    """Mount a FUSE filesystem that never answers."""
    target.mkdir()
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
        mountapi.mount("silent", target, "fuse", 0, options.encode())
        yield
    finally:
        os.close(device)  # ends each request with ENOTCONN
        mountapi.umount2(target, mountapi.MNT_DETACH)


def test_info_of_a_store_on_a_mount_that_hangs_ends(tmp_path: Path) -> None:
    with silent_fuse(tmp_path / "hangs"):
        item = info(Stacker(tmp_path / "hangs" / "store"))
    found = features(item)
    hung = (None, "no answer from the kernel within 5 s")
    assert found["store"] == found["filesystem"] == found["reflink"] == hung
    assert found["erofs"][0] is not None
    assert item["form_auto"]["form"] == "tree"


def test_info_prints_lines_and_a_table(tmp_path: Path) -> None:
    lines = Stacker(tmp_path / "store")("info").out.splitlines()
    blank = lines.index("")
    assert {line.split("  ")[0] for line in lines[:blank]} == {
        *("kernel", "user", "python", "packages", "inflate", "tools", "limits", "store"),
        *("form auto", "mount tree", "mount erofs", "id ranges", "config"),
    }
    assert lines[blank + 1].split() == ["FEATURE", "WORKS", "REASON"]
    assert {line.split()[1] for line in lines[blank + 2 :]} <= {"yes", "no", "unknown"}


def test_fusermount3_that_is_not_set_user_id_serves_no_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stacker.mount import probes

    helper = tmp_path / "fusermount3"
    shutil.copy("/bin/true", helper)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert probes._helper().reason == f"{helper} is not set-user-ID root"
    helper.chmod(0o4755)
    if not os.statvfs(tmp_path).f_flag & os.ST_NOSUID:
        assert probes._helper().works is True
