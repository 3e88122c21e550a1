"""`gc` races no pull, mount, unpack, repair, umount or other `gc`, at any moment of either.

Each test stops one command before each of its file operations in turn, runs the other meanwhile,
and compares what remains.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from stacker.cli import main
from stacker.linux import mountinfo
from stacker.linux.removal import remove_tree
from stacker.store.store import Store
from tests.support.command import PATIENCE, Stacker, at_home
from tests.support.images import Layout, layout
from tests.support.mounts import unmount_below
from tests.support.sample import BASE, MIDDLE
from tests.support.snapshot import Node, snapshot
from tests.support.stopping import Command, Moment, run_while_stopped

NOT_FOUND, IN_USE = 3, 8
EVERY = int(os.environ.get("STACKER_RACE_STEP", "13"))
"""Every n-th moment is tried; 1 for all."""
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts with overlayfs: needs root"),
    pytest.mark.usefixtures("alone_among_mounts"),
    pytest.mark.unmeasured,
]


@dataclass(frozen=True)
class World:
    """A store, and one image whose tree is known."""

    path: Path
    stacker: Stacker
    app: Layout
    tree: dict[bytes, Node]

    @property
    def store(self) -> Path:
        """The store."""
        return self.stacker.store

    @property
    def target(self) -> Path:
        """The mount point."""
        return self.path / "target"

    @property
    def out(self) -> Path:
        """The directory that unpack writes."""
        return self.path / "out"

    def command(self, *words: str | Path) -> Command:
        """Return a command that runs in this process."""
        return lambda: main(["--store", str(self.store), *map(str, words)])

    def saved(self) -> Callable[[], None]:
        """Save the store, and return a function that restores it."""
        saved = self.path / "saved"
        subprocess.run(["cp", "-a", self.store, saved], check=True)

        def restore() -> None:
            unmount_below(self.path)
            remove_tree(self.out, missing_ok=True)
            remove_tree(self.store)
            subprocess.run(["cp", "-a", saved, self.store], check=True)

        return restore

    def unmount(self, target: Path) -> None:
        """Unmount, and wait until no copy of the mount is left in another mount namespace."""
        self.stacker("umount", target)
        end = time.monotonic() + PATIENCE
        while self.stacker("mounts", "--json").items:
            assert time.monotonic() < end, "a mount namespace keeps a copy of the mount"

    def unpacked(self) -> dict[bytes, Node]:
        """Return the tree of the image, unpacked from the store."""
        tree = self.path / f"tree-{os.urandom(4).hex()}"
        self.stacker("unpack", self.app.image.config, tree)
        return snapshot(tree)

    def assert_sound(self, *, images: int) -> None:
        """Check that the store has nothing damaged, missing or left over."""
        assert self.stacker("gc", "--dry-run", "--json").items == []
        self.stacker("verify", "--all")
        assert len(self.stacker("images", "--json").items) == images
        assert len(self.stacker.layers()) == 2 * images
        assert os.listdir(self.store / "staging") == []
        assert os.listdir(self.store / "mounts") == []


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    app = layout(tmp_path / "app", [BASE, MIDDLE])
    reference = at_home(tmp_path, "reference")
    reference("pull", "--sync", app.source)
    reference("unpack", "app:1.0", tmp_path / "reference-tree")
    (tmp_path / "target").mkdir()
    yield World(tmp_path, at_home(tmp_path), app, snapshot(tmp_path / "reference-tree"))
    unmount_below(tmp_path)


def every_moment(
    world: World,
    stopped: Command,
    *others: Command,
    check: Callable[[list[int]], None],
    in_worker: bool = False,
) -> None:
    """Stop a command at each moment, run the others meanwhile, and check what remains."""
    restore, number = world.saved(), 1
    while codes := run_while_stopped(stopped, others, Moment(number, world.store, in_worker)):
        try:
            check(codes)
        except BaseException as error:
            error.add_note(f"the command was stopped before operation {number}: {codes}")
            raise
        restore()
        number += EVERY
    assert number > EVERY, "the command was never stopped"


@pytest.mark.parametrize(
    ("state", "in_worker"),
    [("empty", False), ("empty", True), ("unlisted", False), ("nameless", False)],
)
def test_image_of_a_pull_is_complete_after_gc_at_any_moment(
    world: World, state: str, in_worker: bool
) -> None:
    """The layers that the pull finds in the store are those that gc would remove."""
    prepare(world, state)
    gc = world.command("gc", "--untagged")
    every_moment(
        world, pull(world), gc, check=lambda codes: is_pulled(world, codes), in_worker=in_worker
    )


@pytest.mark.parametrize("state", ["unlisted", "nameless"])
def test_image_of_a_pull_during_gc_is_complete(world: World, state: str) -> None:
    prepare(world, state)
    gc = world.command("gc", "--untagged")
    every_moment(world, gc, pull(world), check=lambda codes: is_pulled(world, codes))


def prepare(world: World, state: str) -> None:
    """Make a store that lacks the image, has it without a list, or has it without a name."""
    Store.open(world.store)
    if state == "unlisted":
        world.stacker("pull", "--sync", world.app.source)
        (world.store / "images.json").write_text('{"schemaVersion": 2, "manifests": []}')
    elif state == "nameless":
        nameless = layout(world.path / "nameless", [BASE, MIDDLE], name=None)
        world.stacker("pull", "--sync", nameless.source)


def pull(world: World) -> Command:
    return world.command("pull", "--no-sync", "--jobs", "1", world.app.source)


def is_pulled(world: World, codes: list[int]) -> None:
    assert codes == [0, 0]
    assert world.unpacked() == world.tree
    world.assert_sound(images=1)


@pytest.mark.parametrize("state", ["unlisted", "nameless"])
@pytest.mark.parametrize("driver", ["overlay", "fuse"])
def test_mount_has_its_whole_tree_after_gc_at_any_moment(
    world: World, state: str, driver: str
) -> None:
    prepare(world, state)
    mount = mounting(world, driver)
    every_moment(
        world,
        mount,
        world.command("gc", "--untagged"),
        check=lambda codes: is_mounted(world, codes),
    )


@pytest.mark.parametrize("state", ["unlisted", "nameless"])
def test_mount_during_gc_has_its_whole_tree_or_finds_no_image(world: World, state: str) -> None:
    prepare(world, state)
    gc = world.command("gc", "--untagged")
    every_moment(
        world, gc, mounting(world, "overlay"), check=lambda codes: is_mounted(world, codes[::-1])
    )


def mounting(world: World, driver: str) -> Command:
    return world.command("mount", "--driver", driver, world.app.image.config, world.target)


def is_mounted(world: World, codes: list[int]) -> None:
    assert codes in ([0, 0], [NOT_FOUND, 0])
    assert (mountinfo.at(world.target) is not None) == (codes[0] == 0)
    if not codes[0]:
        world.stacker("gc", "--untagged")
        assert snapshot(world.target) == world.tree
        world.unmount(world.target)
    world.stacker("gc", "--untagged")
    world.assert_sound(images=0)


@pytest.mark.parametrize("state", ["unlisted", "nameless"])
def test_unpack_is_complete_after_gc_at_any_moment(world: World, state: str) -> None:
    prepare(world, state)
    unpack = world.command("unpack", world.app.image.config, world.out)

    def check(codes: list[int]) -> None:
        assert codes in ([0, 0], [NOT_FOUND, 0])
        assert world.out.exists() == (codes[0] == 0)
        if not codes[0]:
            assert snapshot(world.out) == world.tree
        world.stacker("gc", "--untagged")
        world.assert_sound(images=0)

    every_moment(world, unpack, world.command("gc", "--untagged"), check=check)


def test_unpack_during_a_repair_and_gc_is_complete(world: World) -> None:
    """The unpack reads layers and a stack that the repair exchanges and gc removes."""
    world.stacker("pull", "--sync", "--keep-blobs", world.app.source)
    repair, gc = world.command("repair", "--all"), world.command("gc")
    (record,) = world.store.glob(f"layers/sha256/{world.app.image.diff_ids[0][7:]}/layer.json")
    record.chmod(0o640)
    unpack = world.command("unpack", "app:1.0", world.out)

    def check(codes: list[int]) -> None:
        assert codes == [0, 0]
        assert snapshot(world.out) == world.tree
        world.stacker("gc")
        world.assert_sound(images=1)

    every_moment(world, unpack, repair, gc, check=check)


@pytest.mark.parametrize("state", ["unlisted", "nameless"])
def test_two_gc_remove_everything_once(world: World, state: str) -> None:
    prepare(world, state)
    (world.store / "staging/spool-1").mkdir()
    (world.store / ".index.json.999999.new").write_bytes(b"half")
    (world.store / "blobs/sha256/.abc.12.new").write_bytes(b"half")
    (world.store / "mounts/0123456789ab/upper").mkdir(parents=True)
    (world.store / "partial").mkdir(exist_ok=True)
    (world.store / "partial/sha256-ab").write_bytes(b"half")
    os.utime(world.store / "partial/sha256-ab", (0, 0))
    gc = world.command("gc", "--untagged")

    def check(codes: list[int]) -> None:
        assert codes == [0, 0]
        world.assert_sound(images=0)
        world.stacker.assert_clean()

    every_moment(world, gc, gc, check=check)


@pytest.mark.parametrize("verb", ["umount", "mounts", "mount"])
@pytest.mark.parametrize("stops", ["gc", "other"])
def test_gc_clears_a_mount_without_its_server_beside_other_commands(
    world: World, verb: str, stops: str
) -> None:
    """The server of a FUSE mount was killed, and no image lists its layers."""
    image = world.app.image.config
    words = {"umount": (world.target,), "mounts": (), "mount": (image, world.path / "second")}
    (world.path / "second").mkdir()
    other, gc = world.command(verb, *words[verb]), world.command("gc")

    def check(codes: list[int]) -> None:
        code = codes[0 if stops == "other" else 1]
        assert code in {"mounts": (0,), "mount": (0, NOT_FOUND)}.get(verb, (0, NOT_FOUND, IN_USE))
        assert codes[1 if stops == "other" else 0] == 0
        if verb == "mount" and not code:
            assert snapshot(world.path / "second") == world.tree
            world.unmount(world.path / "second")
        world.stacker("gc")
        assert mountinfo.read().below(world.path) == []
        world.assert_sound(images=0)

    def prepare_dead() -> None:
        prepare(world, "unlisted")
        world.stacker("mount", "--driver", "fuse", image, world.target)
        kill_server(world.target)

    number = 1
    while True:
        prepare_dead()
        pair = (other, gc) if stops == "other" else (gc, other)
        codes = run_while_stopped(pair[0], pair[1:], Moment(number, world.store))
        if codes is None:
            break
        check(codes)
        number += EVERY
    assert number > EVERY


def kill_server(target: Path) -> None:
    """Kill all processes that serve a FUSE mount, its supervisor first."""
    for process in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        with suppress(OSError):
            words = Path(f"/proc/{process}/cmdline").read_bytes()
            if b"mount" in words and os.fsencode(target) in words and process != os.getpid():
                os.kill(process, signal.SIGKILL)
