"""An attacker who exchanges a directory with a symlink redirects no command of root.

The class of CVE-2018-15664: between two system calls of the command, the attacker puts a symlink to
a directory of the victim in place of TARGET, of an upper directory, of a layout, or of a parent.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from stacker.cli import main
from stacker.linux import mountapi, mountinfo
from stacker.linux.removal import remove_tree
from tests.support.exchange import ATTACKER, Interleaving, Trap, exchanging
from tests.support.images import layout
from tests.support.mounts import unmount_below
from tests.support.sample import BASE, MIDDLE
from tests.support.snapshot import Node, snapshot

SECONDS = float(os.environ.get("STACKER_RACE_SECONDS", "1"))
"""How long each race with another process takes."""
DRIVERS = pytest.mark.parametrize("driver", ["overlay", "fuse", "copy"])
WRITABLE = pytest.mark.parametrize("driver", ["overlay", "fuse"])
EXCHANGED = pytest.mark.parametrize("exchanged", ["itself", "parent"])
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount or change to another user"),
    pytest.mark.usefixtures("alone_among_mounts"),
    pytest.mark.unmeasured,
]


class World:
    """A store and a victim of root, and a directory of an attacker.

    ``target`` is what root names on the command line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.victim = path / "victim"
        (self.victim / "target").mkdir(parents=True)
        (self.victim / "target" / "precious").write_bytes(b"precious")
        (self.victim / "target").chmod(0o750)
        (self.victim / "empty" / "target").mkdir(parents=True)
        (path / "attacker" / "parent").mkdir(parents=True)
        self.target = path / "attacker" / "parent" / "target"
        self.target.mkdir()
        os.chown(path / "attacker", ATTACKER, ATTACKER)
        self.source = layout(path / "image", [BASE, MIDDLE]).source
        assert self.run("pull", "--sync", self.source)

    def run(self, *words: str | Path) -> bool:
        """Run a command in this process; return whether it succeeded."""
        return main(["--quiet", "--store", str(self.path / "store"), *map(str, words)]) == 0

    def trap(self, exchanged: str, *, empty: bool = False) -> Trap:
        """Let the attacker exchange the target, or its parent, with the victim's directory."""
        victim = self.victim / "empty" if empty else self.victim
        if exchanged == "parent":
            return Trap.at(self.target.parent, victim)
        return Trap.at(self.target, victim / "target")

    def seen(self) -> tuple[dict[bytes, Node], list[str]]:
        """Return the victim's files, and the mounts outside of the attacker's directory."""
        mounts = mountinfo.read().below(self.path)
        mine = self.path / "attacker"
        outside = [str(m.mount_point) for m in mounts if not m.mount_point.is_relative_to(mine)]
        return snapshot(self.victim), outside

    def clear(self) -> None:
        """Undo the attacker's and the command's mounts, and make the target again."""
        self.run("umount", self.target)
        unmount_below(self.path / "attacker")
        remove_tree(self.target, missing_ok=True)
        self.run("mounts")  # forgets the mounts that are gone
        self.target.mkdir()
        os.chown(self.target, ATTACKER, ATTACKER)


@pytest.fixture
def world() -> Iterator[World]:
    path = Path(tempfile.mkdtemp(prefix="stacker-race-"))
    path.chmod(0o755)  # the attacker must reach the directory; pytest's own is private
    world = World(path)
    yield world
    unmount_below(path)
    remove_tree(path)


def try_every_moment(
    world: World, trap: Trap, command: Callable[[], object], prepare: Callable[[], object]
) -> None:
    """Run a command once for each of its file operations, with the exchange before that one."""
    before = world.seen()
    mine = [world.path / name for name in ("store", "image", "mnt")]
    ignored = [*mine, Path(sys.prefix), Path(sys.base_prefix)]
    moments = at = 0  # the first run counts the operations
    while at <= moments:
        prepare()
        with Interleaving(trap, ignored, at) as interleaving:
            command()
        moments = interleaving.count if at == 0 else moments
        assert world.seen() == before, f"the exchange before operation {at}"
        world.clear()
        at += 1
    assert moments > 10, "the command raised no audit events"


def nothing() -> None:
    """Prepare nothing."""


@DRIVERS
@EXCHANGED
@pytest.mark.parametrize("empty", [True, False])
def test_mount_is_not_redirected_at_any_moment(
    world: World, driver: str, exchanged: str, empty: bool
) -> None:
    trap = world.trap(exchanged, empty=empty)
    words = ("mount", "--driver", driver, "app:1.0", world.target)
    try_every_moment(world, trap, lambda: world.run(*words), nothing)


@DRIVERS
@EXCHANGED
def test_umount_is_not_redirected_at_any_moment(world: World, driver: str, exchanged: str) -> None:
    trap = world.trap(exchanged)
    mountapi.mount("victim", world.victim / "target", "tmpfs", 0)
    (world.victim / "target" / "mounted").write_bytes(b"still mounted")

    def prepare() -> None:
        assert world.run("mount", "--driver", driver, "app:1.0", world.target)

    try_every_moment(world, trap, lambda: world.run("umount", world.target), prepare)


@WRITABLE
@EXCHANGED
def test_upper_directory_is_not_redirected_at_any_moment(
    world: World, driver: str, exchanged: str
) -> None:
    trap = world.trap(exchanged, empty=True)
    mount_point = world.path / "mnt"
    mount_point.mkdir()

    def command() -> None:
        world.run("mount", "--driver", driver, "--upper", world.target, "app:1.0", mount_point)
        with suppress(OSError):
            (mount_point / "written").write_bytes(b"through the mount")
        while mountinfo.at(mount_point) is not None:
            mountapi.umount2(mount_point, mountapi.MNT_DETACH)
        world.run("mounts")

    try_every_moment(world, trap, command, nothing)


@pytest.mark.parametrize(
    ("exchanged", "missing"), [("itself", False), ("parent", False), ("parent", True)]
)
def test_unpack_is_not_redirected_at_any_moment(
    world: World, exchanged: str, missing: bool
) -> None:
    trap = world.trap(exchanged, empty=True)

    def prepare() -> None:
        if missing:
            world.target.rmdir()

    try_every_moment(world, trap, lambda: world.run("unpack", "app:1.0", world.target), prepare)


@EXCHANGED
@pytest.mark.parametrize("verb", ["push", "copy"])
def test_layout_is_not_redirected_at_any_moment(world: World, exchanged: str, verb: str) -> None:
    trap = world.trap(exchanged, empty=True)
    source = "app:1.0" if verb == "push" else world.source
    words = (verb, source, f"oci:{world.target}:app", "--jobs", "1")
    try_every_moment(world, trap, lambda: world.run(*words), nothing)


def test_archive_is_not_redirected_at_any_moment(world: World) -> None:
    trap = world.trap("parent", empty=True)
    words = ("copy", world.source, f"oci-archive:{world.target.parent}/out.tar", "--jobs", "1")

    def prepare() -> None:
        (world.target.parent / "out.tar").unlink(missing_ok=True)

    try_every_moment(world, trap, lambda: world.run(*words), prepare)


@DRIVERS
@EXCHANGED
def test_mount_and_umount_win_no_race_for_the_attacker(
    world: World, driver: str, exchanged: str
) -> None:
    trap = world.trap(exchanged, empty=True)
    before, rounds = world.seen(), 0
    end = time.monotonic() + SECONDS
    with exchanging(trap):
        while time.monotonic() < end:
            world.run("mount", "--driver", driver, "app:1.0", world.target)
            world.run("umount", world.target)
            assert world.seen() == before, f"round {rounds}"
            rounds += 1
    unmount_below(world.path / "attacker")  # a mount point cannot be exchanged
    trap.reset()
    assert rounds


@EXCHANGED
def test_unpack_and_copy_win_no_race_for_the_attacker(world: World, exchanged: str) -> None:
    trap = world.trap(exchanged, empty=True)
    before, rounds = world.seen(), 0
    end = time.monotonic() + SECONDS
    with exchanging(trap):
        while time.monotonic() < end:
            world.run("unpack", "app:1.0", world.target)
            world.run("copy", world.source, f"oci:{world.target}/layout-{rounds}", "--jobs", "1")
            assert world.seen() == before, f"round {rounds}"
            rounds += 1
    unmount_below(world.path / "attacker")  # a mount point cannot be exchanged
    trap.reset()
    assert rounds


@pytest.mark.parametrize(
    "words",
    [
        ("pull", "oci:image"),
        ("images",),
        ("rm", "app:1.0"),
        ("gc",),
        ("mount", "app:1.0", "mnt"),
        ("unpack", "app:1.0", "out"),
        ("verify", "--all"),
    ],
)
@pytest.mark.parametrize("owner", ["another user", "everyone"])
def test_store_that_another_user_can_exchange_is_refused(
    world: World, words: tuple[str, ...], owner: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exposed = world.path / "attacker" if owner == "another user" else world.path / "shared"
    exposed.mkdir(exist_ok=True)
    if owner == "everyone":
        exposed.chmod(0o777)
    (world.path / "store").rename(exposed / "store")
    before = snapshot(exposed / "store")
    assert main(["--store", str(exposed / "store"), *words]) == 2
    assert "other users can replace the store" in capsys.readouterr().err
    assert snapshot(exposed / "store") == before


def test_store_in_a_sticky_directory_of_root_is_accepted(world: World) -> None:
    sticky = world.path / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)
    (world.path / "store").rename(sticky / "store")
    assert main(["--quiet", "--store", str(sticky / "store"), "images"]) == 0


def test_symlink_of_another_user_is_refused_and_named(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    link = world.trap("itself").link
    for words in (("mount", "app:1.0", link), ("umount", link), ("unpack", "app:1.0", link)):
        assert not world.run(*words)
        assert "is a symlink of another user (UID 65534)" in capsys.readouterr().err


def test_symlink_of_the_caller_is_followed(world: World) -> None:
    link = world.path / "link"
    link.symlink_to(world.target)
    assert world.run("mount", "app:1.0", link)
    assert mountinfo.at(world.target) is not None
    assert world.run("umount", link)
