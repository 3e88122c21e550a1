"""FUSE passthrough: when the kernel reads large files without the server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stacker.fuse.options import FuseOptions
from stacker.fuse.passthrough import MIN_SIZE, stack_depth
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import mountapi
from stacker.mount.drivers.fuse import FuseDriver
from stacker.mount.plan import Plan
from tests.support.adapters import skip_without
from tests.support.mounts import unmount_below

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="passthrough is for root"),
    pytest.mark.usefixtures("alone_among_mounts"),
]
LARGE = os.urandom(MIN_SIZE + 12_345)
PLACES = range(0, MIN_SIZE - 8192, 8192)
FEW = 10
"""Requests for lookup, open, release and getattr of a file."""


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Path]:
    for name in ("target", "other"):
        (tmp_path / name).mkdir()
    yield tmp_path
    unmount_below(tmp_path)


def filled(layer: Path) -> Path:
    layer.mkdir(exist_ok=True)
    (layer / "large").write_bytes(LARGE)
    (layer / "small").write_bytes(LARGE[: MIN_SIZE - 1])
    return layer


def overlaid(lower: Path, place: Path) -> Path:
    """Mount an overlay of a directory."""
    for name in ("empty", "shown"):
        (place / name).mkdir(parents=True)
    options = f"lowerdir={lower}:{place}/empty"
    mountapi.mount("overlay", place / "shown", "overlay", mountapi.MS_RDONLY, options.encode())
    return place / "shown"


def mount(layer: Path, target: Path, *, requested: bool = True) -> list[int]:
    """Mount, and return the PIDs of the workers."""
    skip_without("kernel")
    options = FuseOptions(passthrough=requested)
    note = FuseDriver().mount(Plan("0a", target, (layer,), WhiteoutFormat.USER, fuse=options)).note
    assert note is not None
    if "no passthrough" in note:
        pytest.skip(note)
    first = int(note.split()[1])
    return workers(first)


def workers(first: int) -> list[int]:
    found = Path(f"/proc/{first}/task/{first}/children").read_text()
    return [int(number) for number in found.split()]


def asked_of_the_server(processes: list[int], path: Path) -> int:
    """Read a file at `PLACES`, and return how many requests the workers got."""
    before = sum(map(_reads, processes))
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead
        for at in PLACES:
            assert os.pread(file.fileno(), 100, at) == LARGE[at : at + 100]
    return sum(map(_reads, processes)) - before


def _reads(process: int) -> int:
    """Return the read calls of a process, one for each request (proc_pid_io(5))."""
    try:
        text = Path(f"/proc/{process}/io").read_text()
    except FileNotFoundError:
        pytest.skip("this kernel does not count what processes read")
    return int(text.split("syscr:")[1].split()[0])


def test_kernel_reads_a_large_file_without_the_server(workspace: Path) -> None:
    processes = mount(filled(workspace / "layer"), workspace / "target")
    assert asked_of_the_server(processes, workspace / "target/large") < FEW


def test_passthrough_is_automatic_for_large_files(workspace: Path) -> None:
    layer = filled(workspace / "layer")
    with (layer / "larger").open("wb") as file:
        file.truncate(2 * MIN_SIZE)
    mount(layer, workspace / "other")  # or skip: the kernel has none
    processes = mount(layer, workspace / "target", requested=False)
    assert asked_of_the_server(processes, workspace / "target/large") < FEW
    assert asked_of_the_server(processes, workspace / "target/small") >= len(PLACES)
    assert (overlaid(workspace / "target", workspace / "above") / "large").read_bytes() == LARGE


def test_open_sends_no_request_for_a_tree_of_small_files(workspace: Path) -> None:
    processes = mount(filled(workspace / "layer"), workspace / "target", requested=False)
    assert asked_of_the_server(processes, workspace / "target/large") >= len(PLACES)


def test_no_automatic_passthrough_for_a_store_on_an_overlay(workspace: Path) -> None:
    layer = filled(workspace / "layer")
    (layer / "small").unlink()
    os.truncate(layer / "large", 3 * MIN_SIZE)
    processes = mount(overlaid(layer, workspace / "first"), workspace / "target", requested=False)
    assert asked_of_the_server(processes, workspace / "target/large") >= len(PLACES)


def test_kernel_executes_a_program_without_the_server(workspace: Path) -> None:
    program = workspace / "layer/program"
    program.parent.mkdir()
    shutil.copy("/bin/true", program)
    os.truncate(program, 3 * MIN_SIZE)
    mount(program.parent, workspace / "target", requested=False)
    assert subprocess.run([workspace / "target/program"], check=False).returncode == 0


def test_server_reads_a_small_file(workspace: Path) -> None:
    processes = mount(filled(workspace / "layer"), workspace / "target")
    assert asked_of_the_server(processes, workspace / "target/small") >= len(PLACES)


def test_passthrough_works_for_a_store_on_an_overlay(workspace: Path) -> None:
    layer = overlaid(filled(workspace / "layer"), workspace / "first")
    assert stack_depth([workspace / "layer"]) == 1
    assert stack_depth([workspace / "layer", layer]) == 2
    processes = mount(layer, workspace / "target")
    assert asked_of_the_server(processes, workspace / "target/large") < FEW


def test_server_reads_a_store_on_stacked_overlays(workspace: Path) -> None:
    once = overlaid(filled(workspace / "layer"), workspace / "first")
    processes = mount(overlaid(once, workspace / "second"), workspace / "target")
    assert asked_of_the_server(processes, workspace / "target/large") >= len(PLACES)


def test_overlay_can_be_mounted_on_a_passthrough_mount(workspace: Path) -> None:
    mount(filled(workspace / "layer"), workspace / "target")
    assert (overlaid(workspace / "target", workspace / "above") / "large").read_bytes() == LARGE


def test_all_openers_share_one_backing_file(workspace: Path) -> None:
    mount(filled(workspace / "layer"), workspace / "target")

    def read(_: int) -> bytes:
        with (workspace / "target/large").open("rb") as file:
            return file.read()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(read, range(64))) == {LARGE}


def test_new_worker_uses_the_backing_files_of_a_dead_one(workspace: Path) -> None:
    processes = mount(filled(workspace / "layer"), workspace / "target")
    (first,) = [int(line[5:]) for line in _status(processes[0]) if line.startswith("PPid:")]
    with (workspace / "target/large").open("rb") as held:
        for number in processes:
            os.kill(number, signal.SIGKILL)
        while len(workers(first)) < len(processes) or set(workers(first)) & set(processes):
            time.sleep(0.01)
        assert (workspace / "target/large").read_bytes() == LARGE
        assert held.read() == LARGE


def _status(process: int) -> list[str]:
    return Path(f"/proc/{process}/status").read_text().splitlines()
