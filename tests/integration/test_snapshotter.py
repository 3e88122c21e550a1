"""`stacker snapshotter` as a process: its socket, its signals, and calls of many clients."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.command import Stacker, wait_until

pytest.importorskip("grpclib", reason="the extra containerd is not installed")
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from stacker.containerd.generated import snapshots_pb2 as messages
from stacker.containerd.generated.snapshots_grpc import SnapshotsStub

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="changes owners: needs root")


class Running:
    """A snapshotter process, with its directories."""

    def __init__(self, directory: Path) -> None:
        self.stacker = Stacker(directory / "store")
        self.root, self.address = directory / "root", directory / "socket"
        self.process = self.started()

    def started(self) -> subprocess.Popen[str]:
        found = self.stacker.start(
            "snapshotter", "--root", self.root, "--address", self.address, "--jobs", "2"
        )
        wait_until(lambda: is_listening(self.address), found)
        return found

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=60)
        return self.process.returncode


def is_listening(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(address)) == 0


@pytest.fixture
def running() -> Iterator[Running]:
    with tempfile.TemporaryDirectory(prefix="snap") as path:  # a socket's path is short
        found = Running(Path(path))
        yield found
        if found.process.poll() is None:
            found.end()


async def call(running: Running | SimpleNamespace, method: str, request: Any) -> Any:
    async with Channel(path=str(running.address)) as channel:
        return await getattr(SnapshotsStub(channel), method)(request)


def test_only_the_owner_can_open_the_socket(running: Running) -> None:
    assert running.address.stat().st_mode & 0o777 == 0o600
    assert running.root.stat().st_mode & 0o777 == 0o700


def test_sigterm_ends_it_with_exit_code_0(running: Running) -> None:
    assert running.end() == 0
    assert not running.address.exists()


def test_two_processes_never_serve_the_same_snapshots(running: Running) -> None:
    words = ("snapshotter", "--root", running.root, "--address", running.root / "other")
    assert "another process serves them" in running.stacker.refused(8, *words)
    words = ("snapshotter", "--root", running.root / "x", "--address", running.address)
    assert "another process listens on it" in running.stacker.refused(8, *words)


def test_a_killed_process_leaves_no_worker_and_can_be_started_again(running: Running) -> None:
    children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children")
    workers = children.read_text().split()
    assert len(workers) == 2
    running.end(signal.SIGKILL)
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        time.sleep(0.01)
    running.process = running.started()
    asyncio.run(call(running, "Prepare", messages.PrepareSnapshotRequest(key="x")))


def test_systemd_can_pass_the_socket(tmp_path: Path) -> None:
    if not shutil.which("systemd-socket-activate"):
        pytest.skip("systemd-socket-activate is not installed")
    with tempfile.TemporaryDirectory(prefix="snap") as path:
        wrap = ("systemd-socket-activate", f"--listen={path}/socket", "--setenv=PYTHONPATH")
        stacker = Stacker(tmp_path / "store", wrap=wrap)
        process = stacker.start("snapshotter", "--root", f"{path}/root")
        found = SimpleNamespace(address=Path(path, "socket"))
        wait_until(found.address.exists, process)
        answer = asyncio.run(call(found, "Prepare", messages.PrepareSnapshotRequest(key="x")))
        assert answer.mounts[0].source == f"{path}/root/s/1/fs"
        process.terminate()
        process.communicate(timeout=60)
        assert process.returncode == 0


def test_print_config_needs_no_store_and_knows_the_release(tmp_path: Path) -> None:
    stacker = Stacker(tmp_path / "store")
    words = ("snapshotter", "--address", "/run/a.sock", "--print-config")
    old = tomllib.loads(stacker(*words, "1.6.20").out)
    assert old["proxy_plugins"] == {"stacker": {"type": "snapshot", "address": "/run/a.sock"}}
    new = tomllib.loads(stacker("--json", *words, "v1.7").document["item"]["config"])
    assert new["plugins"]["io.containerd.service.v1.diff-service"]["default"] == [
        *("stacker-diff", "walking"),
    ]
    assert "unknown release of containerd" in stacker.refused(7, *words, "1.5")
    assert not (tmp_path / "store").exists()


def test_status_codes_reach_the_client(running: Running) -> None:
    with pytest.raises(GRPCError) as raised:
        asyncio.run(call(running, "Stat", messages.StatSnapshotRequest(key="x")))
    assert raised.value.status == Status.NOT_FOUND


def test_of_16_clients_one_prepares_a_key(running: Running) -> None:
    async def prepare(number: int) -> str:
        request = messages.PrepareSnapshotRequest(key=f"key-{number % 4}")
        try:
            await call(running, "Prepare", request)
        except GRPCError as error:
            return error.status.name
        return "OK"

    async def together() -> list[str]:
        return await asyncio.gather(*map(prepare, range(16)))

    results = asyncio.run(together())
    assert (results.count("OK"), results.count("ALREADY_EXISTS")) == (4, 12)
    assert len(list((running.root / "s").iterdir())) == 4


def test_list_streams_more_snapshots_than_fit_in_a_message(running: Running) -> None:
    async def whole() -> list[int]:
        async with Channel(path=str(running.address)) as channel:
            stub = SnapshotsStub(channel)
            for number in range(101):
                await stub.Prepare(messages.PrepareSnapshotRequest(key=f"key-{number}"))
            return [len(each.info) for each in await stub.List(messages.ListSnapshotsRequest())]

    assert asyncio.run(whole()) == [100, 1]


def test_systemd_is_told_when_the_socket_answers(tmp_path: Path) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="snap") as path,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
    ):
        notify.bind(f"{path}/notify")
        notify.settimeout(60)
        stacker = Stacker(tmp_path / "store", environ={"NOTIFY_SOCKET": f"{path}/notify"})
        process = stacker.start(
            "snapshotter", "--root", f"{path}/root", "--address", f"{path}/socket"
        )
        assert notify.recv(100) == b"READY=1"
        assert is_listening(Path(path, "socket"))
        process.terminate()
        assert notify.recv(100) == b"STOPPING=1"
        process.communicate(timeout=60)
        assert process.returncode == 0
