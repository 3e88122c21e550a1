"""Mount, list and unmount; refuse what another program mounted."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from stacker.errors import LockedError, MountError, NotFoundError
from stacker.linux import mountapi, mountinfo
from stacker.mount.attach import attach
from stacker.mount.detach import clear_stale, detach
from stacker.mount.drivers.overlay import Api, bind_read_only
from stacker.mount.record import MountRecord
from tests.support.bench import USER_NAMESPACE, image, image_of, nothing_is_left, request, table
from tests.support.command import started

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount or change to another user"),
    pytest.mark.usefixtures("alone_among_mounts"),
]


def mount(place: Path, *, read_only: bool = True) -> MountRecord:
    wanted = request(place, driver="overlay", read_only=read_only)
    return attach(table(place), wanted, image(place))[0]


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
        assert caught.value.hint == "end the processes that use it, or detach the mount with --lazy"
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
