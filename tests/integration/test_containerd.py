"""containerd with stacker as its snapshotter, and from 1.7 on as its differ.

Debian 12 has containerd 1.6.  Release 1.7 is that of the Debian 13 root filesystem that
`scripts/chroot` makes; its own loader runs it here.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stacker.image.config import chain_ids
from stacker.image.digest import DiffID
from tests.support import images
from tests.support.command import Stacker, wait_until
from tests.support.tars import dir as directory
from tests.support.tars import file, tar, whiteout

pytest.importorskip("grpclib", reason="the extra containerd is not installed")
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from stacker.containerd.generated import snapshots_pb2 as messages
from stacker.containerd.generated.snapshots_grpc import SnapshotsStub

DEBIAN_13 = Path(os.environ.get("STACKER_CHROOTS", "/var/cache/stacker")) / "debian-13"
LOADER = "usr/lib64/ld-linux-x86-64.so.2"
NAME = "docker.io/library/app:1.0"
OTHER = "docker.io/library/other:1.0"

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="runs containers: needs root"),
    pytest.mark.skipif(
        not (shutil.which("ctr") and shutil.which("runc") and shutil.which("busybox")),
        reason="containerd, runc and busybox are not all installed",
    ),
]


def programs() -> dict[str, list[str]]:
    """Return the words that start containerd, by its release."""
    found = {}
    modern = DEBIAN_13 / "usr/bin/containerd"
    candidates = [["containerd"]]
    if modern.exists():
        libraries = ["--library-path", str(DEBIAN_13 / "usr/lib/x86_64-linux-gnu")]
        candidates.append([str(DEBIAN_13 / LOADER), *libraries, str(modern)])
    for words in candidates if shutil.which("containerd") else []:
        text = subprocess.run([*words, "--version"], check=True, capture_output=True, text=True)
        found[".".join(text.stdout.split()[2].split(".")[:2])] = words
    return found


@dataclass
class Node:
    """A machine with containerd and a snapshotter."""

    place: Path
    stacker: Stacker
    snapshotter: subprocess.Popen[str]

    def ctr(self, *words: str | Path) -> str:
        command = ["ctr", "--address", self.place / "containerd.sock", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def load(self, layout: images.Layout) -> None:
        archive = layout.path.with_suffix(".tar")
        subprocess.run(["tar", "-C", layout.path, "-cf", archive, "."], check=True)
        self.ctr("images", "import", "--snapshotter", "stacker", archive)

    def run(self, name: str, script: str) -> str:
        words = ("run", "--rm", "--snapshotter", "stacker", name, "test", "/bin/sh", "-c", script)
        return self.ctr(*words)

    def snapshots(self) -> int:
        return self.ctr("snapshots", "--snapshotter", "stacker", "list").count("\n") - 1

    def serve(self) -> None:
        """Start the snapshotter, and wait until containerd has connected again."""
        self.snapshotter = self.stacker.start(*options(self.place))
        client = ["ctr", "--address", str(self.place / "containerd.sock")]
        words = [*client, "snapshots", "--snapshotter", "stacker", "usage"]

        def is_connected() -> bool:
            return subprocess.run(words, capture_output=True, check=False).returncode == 0

        wait_until(is_connected, self.snapshotter)


def options(place: Path) -> tuple[str | Path, ...]:
    content = place / "root/io.containerd.content.v1.content"
    paths = ("--root", place / "snapshots", "--address", place / "snapshotter.sock")
    return ("snapshotter", *paths, "--content", content)


@pytest.fixture(params=["1.6", "1.7"])
def release(request: pytest.FixtureRequest) -> str:
    if request.param not in programs():
        pytest.skip(f"containerd {request.param} is not installed")
    return str(request.param)


@pytest.fixture
def node(release: str) -> Iterator[Node]:
    with tempfile.TemporaryDirectory(prefix="node") as path:  # a socket's path is short
        place = Path(path)
        stacker = Stacker(place / "store")
        snapshotter = stacker.start(*options(place))
        wait_until((place / "snapshotter.sock").exists, snapshotter)
        config = stacker(*options(place), "--print-config", release).out
        config = f'root = "{place}/root"\nstate = "{place}/state"\n' + config
        config += f'\n[grpc]\n  address = "{place}/containerd.sock"\n'
        (place / "config.toml").write_text(config)
        found = Node(place, stacker, snapshotter)
        with (place / "log").open("wb") as log:
            words = [*programs()[release], "--config", str(place / "config.toml")]
            containerd = subprocess.Popen(words, stdout=log, stderr=log)
        try:
            wait_until((place / "containerd.sock").exists, found.snapshotter)
            yield found
        finally:
            for process in (containerd, found.snapshotter):
                process.terminate()
                process.communicate(timeout=60)


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> tuple[images.Layout, images.Layout]:
    """Return two images that share their base layer, which has a shell."""
    place = tmp_path_factory.mktemp("layouts")
    shell = Path(shutil.which("busybox") or "").read_bytes()
    base = tar(
        *(directory("bin"), file("bin/sh", shell, mode=0o755)),
        *(directory("etc", mode=0o700), file("etc/old"), file("etc/text", b"base\n")),
    )
    top = tar(file("etc/text", b"hello\n"), whiteout("etc/old"))
    return (
        images.layout(place / "app", [base, top], name=NAME),
        images.layout(place / "other", [base, tar(file("etc/text", b"other\n"))], name=OTHER),
    )


def test_a_container_reads_its_image_and_writes_beside_it(
    node: Node, layouts: tuple[images.Layout, images.Layout]
) -> None:
    for layout in layouts:
        node.load(layout)
    script = "read x < /etc/text; echo $x; echo /etc/*; echo new > /etc/new"
    assert node.run(NAME, script).splitlines() == ["hello", "/etc/text"]
    assert node.run(NAME, script).splitlines() == ["hello", "/etc/text"]
    assert node.run(OTHER, script).splitlines() == ["other", "/etc/old /etc/text"]
    assert node.snapshots() == 3
    node.ctr("images", "rm", "--sync", NAME, OTHER)
    assert node.snapshots() == 0
    assert list((node.place / "snapshots/s").iterdir()) == []


def test_containers_survive_a_killed_snapshotter(
    node: Node, layouts: tuple[images.Layout, images.Layout]
) -> None:
    node.load(layouts[0])
    name = node.place.name  # runc's directory of containers is that of the machine
    words = ("run", "--detach", "--snapshotter", "stacker", NAME, name, "/bin/sh", "-c")
    node.ctr(*words, "while :; do read x < /etc/text; done")
    try:
        node.snapshotter.send_signal(signal.SIGKILL)
        node.snapshotter.communicate(timeout=60)
        echo = ("--exec-id", "1", name, "/bin/sh", "-c", "echo $((6 * 7))")
        assert node.ctr("task", "exec", *echo) == "42\n"
        node.serve()
        assert node.run(NAME, "read x < /etc/text; echo $x") == "hello\n"
    finally:
        node.ctr("task", "delete", "--force", name)
    node.ctr("container", "delete", name)
    assert node.snapshots() == 2


@pytest.mark.parametrize("release", ["1.7"], indirect=True)
def test_containerd_and_the_command_share_layers(
    node: Node, layouts: tuple[images.Layout, images.Layout]
) -> None:
    app, other = layouts
    node.stacker("pull", "--no-sync", app.source)
    before = {path.stat().st_ino for path in node.stacker.layers()}
    node.load(app)
    assert {path.stat().st_ino for path in node.stacker.layers()} == before
    node.load(other)
    assert len(node.stacker.layers()) == 3
    node.stacker("rm", NAME)
    assert "layer" not in node.stacker("gc").out
    assert node.run(NAME, "read x < /etc/text; echo $x") == "hello\n"
    node.ctr("images", "rm", "--sync", NAME, OTHER)
    node.stacker("gc")
    assert node.stacker.layers() == []


def test_a_client_with_labels_gets_the_layers_of_the_store_without_a_fetch(
    node: Node, layouts: tuple[images.Layout, images.Layout]
) -> None:
    image = layouts[0].image
    node.stacker("pull", "--no-sync", layouts[0].source)
    chain = list(map(str, chain_ids([DiffID.parse(each) for each in image.diff_ids])))

    async def prepare(number: int) -> None:
        labels = {
            "containerd.io/snapshot.ref": chain[number],
            "containerd.io/snapshot/cri.layer-digest": image.layers[number],
        }
        request = messages.PrepareSnapshotRequest(
            snapshotter="stacker",
            key=f"extract-{number} {chain[number]}",
            parent=chain[number - 1] if number else "",
            labels=labels,
        )
        async with Channel(path=str(node.place / "containerd.sock")) as channel:
            metadata = {"containerd-namespace": "default"}
            with pytest.raises(GRPCError) as raised:
                await SnapshotsStub(channel).Prepare(request, metadata=metadata)
        assert raised.value.status == Status.ALREADY_EXISTS

    asyncio.run(prepare(0))
    asyncio.run(prepare(1))
    assert node.snapshots() == 2
    words = ("snapshots", "--snapshotter", "stacker")
    node.ctr(*words, "prepare", "test", chain[1])
    mounts = node.ctr(*words, "mounts", "/mnt", "test")
    assert mounts.count(str(node.stacker.store / "layers")) == 2
    node.ctr(*words, "rm", "test")
