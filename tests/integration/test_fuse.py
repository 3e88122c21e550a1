"""FUSE mounts through the command line: processes, adapters, signals and failures."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from stacker.errors import IntegrityError, MountError
from stacker.fuse import protocol
from stacker.fuse.daemon import Daemon
from stacker.fuse.dispatch import RequestHandler
from stacker.fuse.options import FuseAdapter, FuseOptions
from stacker.fuse.read_only import ReadOnlyAdapter
from stacker.fuse.read_write import WritableAdapter
from stacker.layer.paths import LayerPaths
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import inode_attributes, lock, mountapi, mountinfo
from stacker.mount.drivers.fuse import FuseDriver
from stacker.mount.plan import MountRequest, Plan
from stacker.operations.mount import mount_image
from stacker.store.store import Store
from tests.support import images
from tests.support.adapters import ADAPTERS, skip_without
from tests.support.command import Stacker
from tests.support.mounts import unmount_below
from tests.support.snapshot import snapshot
from tests.support.tars import dir, file, hardlink, symlink, tar, whiteout  # noqa: A004 - the word for it

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="looks into processes of root"),
    pytest.mark.usefixtures("alone_among_mounts"),
]
LAYERS = [
    tar(
        dir("etc/", mode=0o750, uid=1, gid=2),
        file("etc/gone", b"old"),
        file("etc/kept", b"kept", xattrs={"user.note": b"1"}),
        file("big", os.urandom(3 << 20)),
        symlink("link", "etc/kept"),
    ),
    tar(file("etc/kept", b"changed"), whiteout("etc/gone"), hardlink("more", "big")),
]


@pytest.fixture(params=ADAPTERS)
def adapter(request: pytest.FixtureRequest) -> FuseAdapter:
    adapter: FuseAdapter = request.param
    skip_without(adapter)
    return adapter


@pytest.fixture
def stacker(tmp_path: Path) -> Iterator[Stacker]:
    stacker = Stacker(tmp_path / "store")
    stacker("pull", images.layout(tmp_path / "app", LAYERS).source)
    (tmp_path / "target").mkdir()
    yield stacker
    unmount_below(tmp_path)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


def servers(target: Path) -> list[int]:
    """Return the PIDs of a mount, the supervisor first."""
    words = f"\0{target}\0".encode()
    return sorted(
        int(name)
        for name in os.listdir("/proc")
        if name.isdigit() and words in _read(Path("/proc", name, "cmdline"))
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def eventually(happened: Callable[[], bool]) -> None:
    """Wait until a condition is true, at most for the time limit of the suite."""
    while not happened():
        time.sleep(0.01)


def is_clean(stacker: Stacker, *, layers: int | None = None) -> None:
    """Check that no mount is left, also in mount namespaces of other tests."""
    eventually(lambda: stacker("mounts", "--json").items == [])
    stacker.assert_clean(images=1, layers=layers)


def options(adapter: FuseAdapter) -> tuple[str, ...]:
    return "--driver", "fuse", "--fuse-adapter", adapter


def mount(stacker: Stacker, target: Path, adapter: FuseAdapter) -> list[int]:
    assert stacker("mount", *options(adapter), "app:1.0", target).last == "fuse"
    return servers(target)


def test_fuse_mount_serves_the_image_until_umount(
    stacker: Stacker, target: Path, adapter: FuseAdapter
) -> None:
    mount(stacker, target, adapter)
    assert sorted(os.listdir(target)) == ["big", "etc", "link", "more"]
    assert (target / "link").read_bytes() == b"changed"
    assert not (target / "etc/gone").exists()
    assert (target / "big").stat().st_ino == (target / "more").stat().st_ino
    assert (target / "big").stat().st_nlink == 2
    found = mountinfo.at(target)
    assert found is not None
    assert (found.fstype, found.source[:8]) == ("fuse.stacker", "stacker:")
    (item,) = stacker("mounts", "--json").items
    assert (item["driver"], item["state"], item["read_only"]) == ("fuse", "mounted", True)
    assert item["fuse_adapter"] == adapter
    assert stacker.run("mount", "app:1.0", target).code == 9
    stacker("umount", target)
    eventually(lambda: not servers(target))
    is_clean(stacker, layers=2)


def test_root_raises_the_read_ahead_of_the_mount(stacker: Stacker, target: Path) -> None:
    mount(stacker, target, "kernel")
    found = mountinfo.at(target)
    assert found is not None
    assert not {"nosuid", "nodev"} & found.options
    knob = Path(f"/sys/class/bdi/{found.device[0]}:{found.device[1]}/read_ahead_kb")
    if not os.access(knob, os.W_OK):
        pytest.skip("no writable /sys here")
    assert int(knob.read_text()) == protocol.READ_AHEAD >> 10
    stacker("umount", target)


def test_each_worker_has_its_own_channel(stacker: Stacker, target: Path) -> None:
    _, *workers = mount(stacker, target, "kernel")
    channels = [(worker, _channel(worker)) for worker in workers]
    for (one, first), (other, second) in combinations(channels, 2):
        assert not is_one_file(one, first, other, second)
    stacker("umount", target)


def _channel(process: int) -> int:
    """Return the only descriptor of /dev/fuse in a process."""
    place = Path(f"/proc/{process}/fd")
    eventually(lambda: len(_fuse_descriptors(place)) == 1)
    return _fuse_descriptors(place)[0]


def _fuse_descriptors(place: Path) -> list[int]:
    return [int(link.name) for link in place.iterdir() if os.readlink(link) == "/dev/fuse"]


def is_one_file(one: int, first: int, other: int, second: int) -> bool:
    """Return whether descriptors of two processes share an open file (kcmp(2))."""
    number = {"x86_64": 312, "aarch64": 272}.get(os.uname().machine)
    if number is None:
        pytest.skip("no number of kcmp(2) known for this machine")
    libc = ctypes.CDLL(None, use_errno=True)
    found = libc.syscall(number, one, other, 0, ctypes.c_ulong(first), ctypes.c_ulong(second))
    if found < 0:
        pytest.skip(f"kcmp: {os.strerror(ctypes.get_errno())}")
    return bool(found == 0)


@pytest.mark.parametrize("read_only", [True, False])
def test_tree_is_the_same_without_optional_kernel_features(
    stacker: Stacker,
    target: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    read_only: bool,
) -> None:
    skip_without("kernel")
    (layer,) = (path.parent for path in (stacker.store / "layers").rglob("diff/big"))
    for adapter in (ReadOnlyAdapter, WritableAdapter):
        monkeypatch.setattr(adapter, "wanted", 0)
    plan = Plan("0e", target, (layer,), WhiteoutFormat.TRUSTED, read_only=read_only)
    if not read_only:
        plan = replace(plan, upper=tmp_path / "upper", work=tmp_path / "work", volatile=True)
        for path in plan.directories:
            path.mkdir()
    FuseDriver().mount(plan)
    for _ in range(2):
        assert below_root(target) == below_root(layer)
    if not read_only:
        (target / "new").write_bytes(LAYERS[0])
        assert (tmp_path / "upper/new").read_bytes() == LAYERS[0]


def below_root(directory: Path) -> dict[bytes, object]:
    return {path: node for path, node in snapshot(directory).items() if path}


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("reply", [b"\xff" * 3, bytes(200), struct.pack("=IiQ", 16, -9999, 0)])
def test_rejected_reply_is_eio_and_the_mount_survives(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reply: bytes, *, read_only: bool
) -> None:
    skip_without("kernel")
    kind = ReadOnlyAdapter if read_only else WritableAdapter
    answer = kind.answer

    def wrong(adapter: RequestHandler, request: bytes) -> bytes | memoryview | None:
        _, opcode, unique, *_ = protocol.IN_HEADER.unpack_from(request)
        if opcode != protocol.STATFS:
            return answer(adapter, request)
        if len(reply) == protocol.OUT_HEADER.size:
            return reply[:8] + struct.pack("=Q", unique)
        return protocol.reply(unique, reply)

    monkeypatch.setattr(kind, "answer", wrong)
    for name in ("layer", "upper", "work", "target"):
        (tmp_path / name).mkdir(exist_ok=True)
    plan = Plan("0d", target, (tmp_path / "layer",), WhiteoutFormat.USER, read_only=read_only)
    if not read_only:
        plan = replace(plan, upper=tmp_path / "upper", work=tmp_path / "work", volatile=True)
    first = int((FuseDriver().mount(plan).note or "").split()[1])
    before = Path(f"/proc/{first}/task/{first}/children").read_text()
    try:
        for _ in range(3):
            assert _error_of(lambda: os.statvfs(target)) == errno.EIO
        assert os.listdir(target) == []
        assert Path(f"/proc/{first}/task/{first}/children").read_text() == before
    finally:
        mountapi.umount2(target)


def test_kernel_adapter_is_the_default(stacker: Stacker, target: Path) -> None:
    skip_without("kernel")
    assert stacker("mount", "--driver", "fuse", "app:1.0", target).last == "fuse"
    (item,) = stacker("mounts", "--json").items
    assert item["fuse_adapter"] == "kernel"
    stacker("umount", target)
    is_clean(stacker, layers=2)


@pytest.mark.parametrize("driver", ["auto", "overlay", "copy"])
def test_fuse_adapter_requires_the_fuse_driver(stacker: Stacker, target: Path, driver: str) -> None:
    words = ("--driver", driver, "--fuse-adapter", "pyfuse3", "app:1.0", target)
    message = stacker.refused(2, "mount", *words)
    assert f"requires --driver fuse: got --driver {driver}" in message
    assert "hint: add --driver fuse" in message
    is_clean(stacker, layers=2)


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (("--driver", "overlay"), 2, "requires --driver fuse: got --driver overlay"),
        (("--driver", "fuse", "--rw"), 7, "read-only"),
        (("--driver", "fuse", "--fuse-adapter", "pyfuse3"), 7, "has no passthrough"),
    ],
    ids=["overlay", "writes", "pyfuse3"],
)
def test_passthrough_requires_the_kernel_adapter_and_a_read_only_mount(
    stacker: Stacker, target: Path, words: tuple[str, ...], code: int, reason: str
) -> None:
    skip_without("pyfuse3" if "pyfuse3" in words else "kernel")
    message = stacker.refused(code, "mount", *words, "--fuse-passthrough", "app:1.0", target)
    assert reason in message
    is_clean(stacker, layers=2)


def test_missing_pyfuse3_is_an_error_with_the_command_to_install_it(
    stacker: Stacker, target: Path
) -> None:
    without = replace(stacker, python=str(_python_without_pyfuse3(target.parent)))
    words = ("--driver", "fuse", "--fuse-adapter", "pyfuse3", "app:1.0", target)
    message = without.refused(9, "mount", *words)
    assert "pyfuse3 is not installed" in message
    assert "pip install 'stacker-rootfs[fuse]'" in message
    assert "libfuse3-dev" in message
    assert mountinfo.at(target) is None
    is_clean(stacker, layers=2)


def test_broken_pyfuse3_is_an_error_and_leaves_no_mount(stacker: Stacker, target: Path) -> None:
    skip_without("kernel")
    broken = target.parent / "broken"
    broken.mkdir()
    (broken / "pyfuse3.py").write_text("raise ImportError('libfuse3.so.3: no such file')")
    path = f"{broken}{os.pathsep}{stacker.environment['PYTHONPATH']}"
    message = replace(stacker, environ={"PYTHONPATH": path}).refused(
        9, "mount", "--driver", "fuse", "--fuse-adapter", "pyfuse3", "app:1.0", target
    )
    assert "cannot load pyfuse3: libfuse3.so.3: no such file" in message
    assert mountinfo.at(target) is None
    is_clean(stacker, layers=2)


def _python_without_pyfuse3(workspace: Path) -> Path:
    """Return an interpreter that finds every module except pyfuse3."""
    script = workspace / "python"
    hide = (
        "import sys, runpy;"
        "from importlib.machinery import PathFinder;"
        "find = PathFinder.find_spec;"
        "PathFinder.find_spec = lambda name, *more:"
        " None if name.partition('.')[0] == 'pyfuse3' else find(name, *more);"
        "sys.argv[:] = sys.argv[2:];"
        "runpy.run_module('stacker', run_name='__main__')"
    )
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{hide}" "$@"\n')
    script.chmod(0o755)
    return script


def test_fuse_serves_a_single_plain_layer(
    tmp_path: Path, target: Path, adapter: FuseAdapter
) -> None:
    stacker = Stacker(tmp_path / "store")
    stacker("pull", images.layout(tmp_path / "app", LAYERS[:1]).source)
    target.mkdir()
    mount(stacker, target, adapter)
    assert [item["state"] for item in stacker("mounts", "--json").items] == ["mounted"]
    stacker("umount", target)
    is_clean(stacker, layers=1)


def test_pyfuse3_adapter_refuses_rw_and_upper(stacker: Stacker, target: Path) -> None:
    skip_without("pyfuse3")
    message = stacker.refused(7, "mount", *options("pyfuse3"), "--rw", "app:1.0", target)
    assert "is read-only" in message
    is_clean(stacker)


def test_writes_with_rw_are_discarded_at_umount(stacker: Stacker, target: Path) -> None:
    assert stacker("mount", "--driver", "fuse", "--rw", "app:1.0", target).last == "fuse"
    (target / "etc/kept").write_bytes(b"written")
    (target / "new").mkdir()
    (target / "big").unlink()
    assert sorted(os.listdir(target)) == ["etc", "link", "more", "new"]
    assert (target / "link").read_bytes() == b"written"
    (item,) = stacker("mounts", "--json").items
    assert (item["driver"], item["state"], item["read_only"]) == ("fuse", "mounted", False)
    stacker("umount", target)
    eventually(lambda: not servers(target))
    is_clean(stacker, layers=2)
    mount(stacker, target, "kernel")
    assert (target / "etc/kept").read_bytes() == b"changed"
    stacker("umount", target)


@pytest.mark.parametrize(("first", "second"), [("fuse", "overlay"), ("overlay", "fuse")])
def test_overlay_and_fuse_share_a_persistent_upper(
    stacker: Stacker, target: Path, tmp_path: Path, first: str, second: str
) -> None:
    kept = tmp_path / "changes"
    for turn, driver in enumerate((first, second, first)):
        stacker("mount", "--driver", driver, "--upper", kept, "app:1.0", target)
        assert sorted(os.listdir(target / "etc")) == ["kept", *(f"n{n}" for n in range(turn))]
        (target / f"etc/n{turn}").write_bytes(b"%d" % turn)
        (target / "more").unlink(missing_ok=True)
        stacker("umount", target)
        is_clean(stacker)
        assert sorted(os.listdir(tmp_path)) == ["app", "changes", "store", "target"]
    assert (kept / "etc/n2").read_bytes() == b"2"


def test_upper_of_another_mount_is_refused(stacker: Stacker, target: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    stacker("mount", "--driver", "fuse", "--upper", tmp_path / "changes", "app:1.0", target)
    words = ("--driver", "fuse", "--upper", tmp_path / "changes", "app:1.0", other)
    assert "upper directory is in use" in stacker.refused(8, "mount", *words)
    stacker("umount", target)
    stacker("mount", *words)
    stacker("umount", other)


def test_upper_of_a_detached_mount_is_refused_while_in_use(
    stacker: Stacker, target: Path, tmp_path: Path
) -> None:
    words = ("--driver", "fuse", "--upper", tmp_path / "changes", "app:1.0", target)
    stacker("mount", *words)
    with (target / "new").open("wb", buffering=0) as held:
        stacker("umount", "--lazy", target)
        assert "a detached mount still uses it" in stacker.refused(8, "mount", *words)
        held.write(b"late")
    eventually(lambda: not servers(target))
    stacker("mount", *words)
    assert (target / "new").read_bytes() == b"late"
    stacker("umount", target)


def test_upper_keeps_writes_of_a_killed_server(
    stacker: Stacker, target: Path, tmp_path: Path
) -> None:
    words = ("--driver", "fuse", "--upper", tmp_path / "changes", "app:1.0", target)
    stacker("mount", *words)
    (target / "etc/kept").write_bytes(b"written")
    first, worker = servers(target)
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: not servers(target))
    assert first not in servers(target)
    assert _error_of(lambda: os.listdir(target)) == errno.ENOTCONN
    assert [item["target"] for item in stacker("mounts", "--json").document["cleared"]] == [
        str(target)
    ]
    stacker("mount", *words)
    assert (target / "etc/kept").read_bytes() == b"written"
    stacker("umount", target)
    is_clean(stacker)


def test_sigterm_unmounts_a_writable_mount(stacker: Stacker, target: Path) -> None:
    stacker("mount", "--driver", "fuse", "--rw", "app:1.0", target)
    first, worker = servers(target)
    os.kill(worker, signal.SIGTERM)  # the worker ignores it, since it cannot be replaced
    (target / "new").write_bytes(b"x")
    os.kill(first, signal.SIGTERM)
    eventually(lambda: not servers(target))
    assert mountinfo.at(target) is None
    is_clean(stacker)


def test_print_plan_describes_a_fuse_mount(stacker: Stacker, target: Path) -> None:
    words = ("mount", "--driver", "fuse", "--rw", "--print-plan", "app:1.0", target)
    plan = stacker(*words).item["plan"]
    (only,) = plan["mounts"]
    assert only["type"] == "fuse.stacker"
    assert f"upperdir={plan['upper']}" in only["options"]
    assert "metacopy=off" not in only["options"]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one worker alone stores nothing")
@pytest.mark.skipif(shutil.which("fincore") is None, reason="fincore is not installed")
def test_sequential_reads_prefetch_the_next_files(
    stacker: Stacker, target: Path, tmp_path: Path
) -> None:
    layer = tar(*(file(f"many/{number:03}", b"%d" % number) for number in range(100)))
    stacker("pull", images.layout(tmp_path / "many", [layer]).source)
    mount(stacker, target, "kernel")

    def is_cached(number: int) -> bool:
        words = ["fincore", "--raw", "--noheadings", "--output", "PAGES"]
        path = str(target / f"many/{number:03}")
        os.stat(path)
        return subprocess.run([*words, path], check=True, capture_output=True).stdout == b"1\n"

    assert not is_cached(12)
    for number in range(8):
        assert (target / f"many/{number:03}").read_bytes() == b"%d" % number
    eventually(lambda: is_cached(12))
    assert not is_cached(90)
    assert (target / "many/012").read_bytes() == b"12"
    stacker("umount", target)


def test_busy_fuse_mount_needs_a_lazy_umount(
    stacker: Stacker, target: Path, adapter: FuseAdapter
) -> None:
    mount(stacker, target, adapter)
    with (target / "big").open("rb") as held:
        stacker.refused(9, "umount", target)
        stacker("umount", "--lazy", target)
        assert mountinfo.at(target) is None
        assert len(held.read()) == 3 << 20
    eventually(lambda: not servers(target))


def test_concurrent_readers_get_the_right_contents(
    stacker: Stacker, target: Path, adapter: FuseAdapter
) -> None:
    mount(stacker, target, adapter)
    layers = list((stacker.store / "layers/sha256").glob("*/diff/big"))
    (whole,) = {path.read_bytes() for path in layers}

    def piece(at: int) -> bool:
        with (target / "big").open("rb", buffering=0) as file:
            return os.pread(file.fileno(), 40_000, at) == whole[at : at + 40_000]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(piece, range(0, len(whole), 10_007)))
    stacker("umount", target)


def test_dead_worker_is_replaced(stacker: Stacker, target: Path, adapter: FuseAdapter) -> None:
    first, *workers = mount(stacker, target, adapter)
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    eventually(lambda: len(set(servers(target)) - {first, *workers}) == len(workers))
    assert (target / "etc/kept").read_bytes() == b"changed"
    assert first in servers(target)
    stacker("umount", target)
    eventually(lambda: not servers(target))


def test_workers_survive_their_supervisor(
    stacker: Stacker, target: Path, adapter: FuseAdapter
) -> None:
    first, *_ = mount(stacker, target, adapter)
    os.kill(first, signal.SIGKILL)
    assert (target / "etc/kept").read_bytes() == b"changed"
    stacker("umount", target)
    eventually(lambda: not servers(target))


def test_sigterm_unmounts_a_read_only_mount(
    stacker: Stacker, target: Path, adapter: FuseAdapter
) -> None:
    first, *_ = mount(stacker, target, adapter)
    os.kill(first, signal.SIGTERM)
    eventually(lambda: not servers(target))
    assert mountinfo.at(target) is None
    is_clean(stacker)


def killed(stacker: Stacker, target: Path, adapter: FuseAdapter, *more: str) -> None:
    """Mount, kill all processes of the mount, and check that no request is answered."""
    stacker("mount", *options(adapter), *more, "app:1.0", target)
    first, *_ = servers(target)
    os.stat(target)  # the kernel answers from its cache
    os.killpg(os.getpgid(first), signal.SIGKILL)
    eventually(lambda: not servers(target))
    eventually(lambda: _error_of(lambda: os.listdir(target)) == errno.ENOTCONN)


def _error_of(call: Callable[[], object]) -> int | None:
    try:
        call()
    except OSError as error:
        return error.errno
    return None


def test_mounts_clears_a_mount_without_a_server(
    stacker: Stacker, target: Path, adapter: FuseAdapter
) -> None:
    killed(stacker, target, adapter)
    listed = stacker("mounts", "--json").document
    assert listed["items"] == []
    assert [item["target"] for item in listed["cleared"]] == [str(target)]
    assert os.listdir(target) == []
    is_clean(stacker)
    mount(stacker, target, adapter)
    stacker("umount", target)


@pytest.mark.parametrize("more", [(), ("--rw",)], ids=["read-only", "--rw"])
def test_mount_replaces_a_mount_without_a_server(
    stacker: Stacker, target: Path, more: tuple[str, ...]
) -> None:
    killed(stacker, target, "kernel", *more)
    stacker("mount", *options("kernel"), *more, "app:1.0", target)
    assert (target / "etc/kept").read_bytes() == b"changed"
    stacker("umount", target)
    eventually(lambda: not servers(target))
    is_clean(stacker)


def test_server_that_is_killed_before_it_answers_leaves_no_mount(
    stacker: Stacker, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Daemon, "start_workers", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    store = Store.open(stacker.store)
    with pytest.raises(MountError, match="the server process died"):
        mount_image(store, "app:1.0", MountRequest(target, "fuse"))
    assert mountinfo.at(target) is None
    is_clean(stacker)


def test_server_that_cannot_fork_its_workers_names_the_cause_and_leaves_no_mount(
    stacker: Stacker, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(Daemon, "_start_worker", fail)
    with pytest.raises(MountError, match=os.strerror(errno.EAGAIN)):
        mount_image(Store.open(stacker.store), "app:1.0", MountRequest(target, "fuse"))
    assert mountinfo.at(target) is None
    is_clean(stacker)


def mount_dead(target: Path) -> None:
    """Mount a FUSE filesystem of another program, whose server has ended."""
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    mountapi.mount("other", target, "fuse.other", 0, options)
    os.close(device)


def test_dead_mount_below_another_dead_mount_stops_neither_gc_nor_mounts(
    stacker: Stacker, target: Path
) -> None:
    first, *_ = mount(stacker, target, "kernel")
    mount_dead(target)
    os.killpg(os.getpgid(first), signal.SIGKILL)
    eventually(lambda: not servers(target))
    stacker("gc")
    assert [item["target"] for item in stacker("mounts", "--json").items] == [str(target)]
    error = stacker.refused(9, "umount", target)
    again = f"stacker --store {stacker.store} umount {target}"
    assert error.endswith(f"hint: umount {target} && {again}\n")
    subprocess.run(["umount", target], check=True)
    stacker("umount", target)
    is_clean(stacker)


def test_mount_on_a_dead_mount_of_another_program_is_refused(
    stacker: Stacker, target: Path
) -> None:
    mount_dead(target)
    error = stacker.refused(9, "mount", "app:1.0", target)
    assert f"cannot use mount target: {target}: Transport endpoint is not connected\n" in error
    assert error.endswith(f"hint: umount {target}\n")


@pytest.mark.parametrize("words", [("kernel",), ("kernel", "--rw"), ("pyfuse3",)], ids=" ".join)
def test_umount_clears_a_mount_without_a_server(
    stacker: Stacker, target: Path, words: tuple[FuseAdapter, ...]
) -> None:
    skip_without(words[0])
    killed(stacker, target, *words)
    stacker("umount", target)
    assert os.listdir(target) == []
    is_clean(stacker)


def test_error_in_the_server_reaches_the_caller(
    stacker: Stacker, target: Path, adapter: FuseAdapter
) -> None:
    for skeleton in (stacker.store / "layers").rglob("skeleton.tar.zst"):
        skeleton.write_bytes(skeleton.read_bytes()[:-8])
    message = stacker.refused(5, "mount", *options(adapter), "app:1.0", target)
    assert "damaged skeleton" in message
    assert not servers(target)
    is_clean(stacker)


def test_server_keeps_no_descriptor_and_lock_of_the_caller(
    tmp_path: Path, adapter: FuseAdapter
) -> None:
    layer, target = tmp_path / "layer", tmp_path / "target"
    for path in (layer, target):
        path.mkdir()
    plan = Plan("keepsnothing", target, (layer,), WhiteoutFormat.USER, fuse=FuseOptions(adapter))
    with lock.exclusive(tmp_path / "lock"):
        note = FuseDriver().mount(plan).note or ""
    try:
        again = lock.try_exclusive(tmp_path / "lock")
        assert again is not None
        again.release()
        number = int(note.split()[1])
        assert os.readlink(f"/proc/{number}/cwd") == "/"
        assert os.getsid(number) != os.getsid(0)
    finally:
        mountapi.umount2(target)


def test_missing_layer_record_is_an_error_and_leaves_no_mount(
    tmp_path: Path, adapter: FuseAdapter
) -> None:
    layer, target = LayerPaths(tmp_path / "layer"), tmp_path / "target"
    for path in (layer.root, layer.diff, target):
        path.mkdir()
    layer.record.write_bytes(b"{}")
    with pytest.raises(IntegrityError):
        FuseDriver().mount(
            Plan(
                "0f",
                target,
                (layer.diff,),
                WhiteoutFormat.USER,
                layer_paths=(layer,),
                fuse=FuseOptions(adapter),
            )
        )
    assert mountinfo.at(target) is None


def test_program_runs_from_a_fuse_mount(tmp_path: Path, adapter: FuseAdapter) -> None:
    layer, target = tmp_path / "layer", tmp_path / "target"
    for path in (layer, target):
        path.mkdir()
    shutil.copy("/bin/true", layer / "true")
    FuseDriver().mount(
        Plan("runs", target, (layer,), WhiteoutFormat.USER, fuse=FuseOptions(adapter))
    )
    try:
        assert subprocess.run([target / "true"], check=False).returncode == 0
    finally:
        mountapi.umount2(target)


@pytest.mark.parametrize("form", ["tree", "erofs"])
@pytest.mark.parametrize("words", [(), ("--rw",), ("--fuse-passthrough",)], ids=" ".join)
def test_filesystem_of_the_store_can_be_unmounted_right_after_umount(
    tmp_path: Path, form: str, words: tuple[str, ...]
) -> None:
    disk, target = tmp_path / "disk", tmp_path / "target"
    for directory in (disk, target):
        directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], check=True)
    try:
        stacker = Stacker(disk / "store")
        source = images.layout(tmp_path / "app", LAYERS).source
        stacker("pull", "--sync", "--form", form, source)
        for _ in range(5):
            stacker("mount", "--driver", "fuse", *words, "app:1.0", target)
            assert (target / "etc/kept").read_bytes() == b"changed"
            stacker("umount", target)
            mountapi.umount2(disk)  # EBUSY if a process has a file of it open
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], check=True)
            stacker("pull", "--sync", "--form", form, source)
    finally:
        unmount_below(tmp_path)


def test_umount_gives_up_waiting_for_a_server_that_has_another_mount(
    stacker: Stacker, target: Path, tmp_path: Path
) -> None:
    (tmp_path / "second").mkdir()
    mount(stacker, target, "kernel")
    subprocess.run(["mount", "--bind", target, tmp_path / "second"], check=True)
    stacker("umount", target)
    assert (tmp_path / "second/etc/kept").read_bytes() == b"changed"


def test_read_only_mount_reports_birth_times_and_flags(stacker: Stacker, target: Path) -> None:
    mount(stacker, target, "kernel")
    (layer,) = (each for each in stacker.store.glob("layers/*/*/diff") if (each / "big").exists())
    for name in ("big", "etc", "."):
        seen, stored = (os.open(top / name, os.O_RDONLY) for top in (target, layer))
        assert inode_attributes.birth_time(seen) is not None
        assert name == "." or inode_attributes.birth_time(seen) == inode_attributes.birth_time(
            stored
        )
        assert inode_attributes.file_flags(seen) == inode_attributes.file_flags(stored)
        os.close(seen)
        os.close(stored)
