"""`stacker mount --driver fuse`: what both adapters serve, and the options."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from stacker.errors import IntegrityError
from stacker.fuse import protocol
from stacker.fuse.dispatch import RequestHandler
from stacker.fuse.options import FuseAdapter, FuseOptions
from stacker.fuse.read_only import ReadOnlyAdapter
from stacker.fuse.read_write import WritableAdapter
from stacker.layer.paths import LayerPaths
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import inode_attributes, mountapi, mountinfo
from stacker.mount.drivers.fuse import FuseDriver
from stacker.mount.plan import Plan
from tests.support import images
from tests.support.adapters import skip_without
from tests.support.command import Stacker
from tests.support.fuse_mounts import LAYERS, eventually, is_clean, mount, servers
from tests.support.snapshot import snapshot
from tests.support.syscalls import error_of
from tests.support.tars import file, tar

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="looks into processes of root"),
    pytest.mark.usefixtures("alone_among_mounts"),
]


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
    for flags in ("WANTED", "WANTED_TO_WRITE", "WANTED_FOR_ACLS"):
        monkeypatch.setattr(protocol, flags, 0)
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


@pytest.mark.usefixtures("forks")
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
            assert error_of(lambda: os.statvfs(target)) == errno.EIO
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
    mount(stacker, target, adapter)
    assert [item["state"] for item in stacker("mounts", "--json").items] == ["mounted"]
    stacker("umount", target)
    is_clean(stacker, layers=1)


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
