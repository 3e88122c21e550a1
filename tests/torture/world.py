"""A store with known images, in which the sweeps disturb commands.

An empty directory comes in; a `World` goes out, which holds sources, a store and directories.  The
commands, faults and checks are elsewhere.
"""

from __future__ import annotations

import atexit
import json
import os
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Final

from tests.support import images, tars
from tests.support.command import Stacker, at_home
from tests.support.forkserver import Server
from tests.support.mounts import unmount_below
from tests.support.registries import FakeRegistry, fake_registry
from tests.support.snapshot import Node, snapshot
from tests.torture.forkserver import ForkedStacker, shared_server

BASE: Final = tars.tar(
    tars.dir("etc/"),
    tars.file("etc/config", b"base\n" * 40),
    tars.file("etc/old", b"replaced\n"),
    tars.symlink("lib", "usr/lib"),
    tars.dir("usr/lib/"),
    tars.file("usr/lib/library", bytes(range(256)) * 300),
    tars.hardlink("usr/lib/alias", "usr/lib/library"),
)
CHANGES: Final = tars.tar(
    tars.whiteout("etc/old"),
    tars.file("etc/new", b"new\n", mode=0o640),
    tars.file("lib/extra", b"below a symbolic link\n"),
)
OLD: Final = tars.tar(tars.file("etc/version", b"1\n"))
OTHER: Final = tars.tar(tars.dir("srv/"), *(tars.file(f"srv/{n}", b"%d" % n) for n in range(12)))


Arguments = tuple[str | Path, ...]
"""The arguments of one command."""


@dataclass(frozen=True)
class World:
    """Sources to pull, a store, and directories to mount at and write to.

    :param server: runs stacker.
    """

    path: Path
    server: Server = field(default_factory=shared_server)

    @cached_property
    def stacker(self) -> ForkedStacker:
        """Return stacker on this world's store."""
        return forked(at_home(self.path), self.server)

    @cached_property
    def app(self) -> images.Layout:
        """Return an image of two layers; it shares the lower one with `other`."""
        return images.layout(self.path / "app", [BASE, CHANGES], name="app")

    @cached_property
    def other(self) -> images.Layout:
        """Return an image that is stored durably before the fault."""
        return images.layout(self.path / "other", [BASE, OTHER], name="other", compression="zstd")

    @cached_property
    def old(self) -> images.Layout:
        """Return an image with the name of `app`, which loses the name to `app`."""
        return images.layout(self.path / "old", [BASE, OLD], name="app")

    @property
    def target(self) -> Path:
        """Return the mount point."""
        return self.path / "target"

    @property
    def mounted(self) -> Path:
        """Return the path of the mounted tree, also after a boot, in another mount namespace."""
        return Path(f"/proc/{self.server.process.pid}/root{self.target}")

    @property
    def upper(self) -> Path:
        """Return the directory for the writes of ``mount --upper``."""
        return self.path / "upper"

    @property
    def out(self) -> Path:
        """Return the directory for trees, layouts and archives."""
        return self.path / "out"

    @property
    def tree(self) -> Path:
        """Return the directory that the command ``unpack`` writes."""
        return self.out / "tree"

    @property
    def bundle(self) -> Path:
        """Return the directory that the command ``bundle`` writes."""
        return self.out / "bundle"

    def prepare(self) -> None:
        """Write the sources, make the directories, and pull the other image with ``--sync``."""
        for path in (self.target, self.upper, self.out):
            path.mkdir()
        assert self.app.path != self.other.path
        self.stacker("pull", "--sync", self.other.source)

    def unmount(self) -> None:
        """Unmount everything below this world."""
        unmount_below(self.path)

    def unpacked(self, name: str) -> dict[bytes, Node]:
        """Return the tree that unpacking an image of the store gives."""
        return _unpacked(self.stacker, name, self.path)

    def pulled_elsewhere(self, source: str) -> dict[bytes, Node]:
        """Return the tree of a source, pulled into a new store and unpacked from it."""
        place = self.path / f"elsewhere-{os.urandom(4).hex()}"
        stacker = replace(self.stacker, store=place / "store")
        place.mkdir()
        stacker("pull", source)
        return _unpacked(stacker, self.app.image.config, place)


def forked(stacker: Stacker, server: Server) -> ForkedStacker:
    """Return a command that a server runs."""
    return ForkedStacker(stacker.store, environ=stacker.environ, server=server)


def _unpacked(stacker: Stacker, name: str, path: Path) -> dict[bytes, Node]:
    tree = path / f"tree-{os.urandom(4).hex()}"
    stacker("unpack", "--pull", "never", name, tree)
    return snapshot(tree)


@cache
def shared_registry() -> FakeRegistry:
    """Return a registry with the tag ``app:1.0``, which this process serves until its end."""
    serving = fake_registry()
    registry = serving.__enter__()
    atexit.register(serving.__exit__, None, None, None)
    tags = json.dumps({"name": "app", "tags": ["1.0"]}).encode()
    listed = "/v2/app/tags/list?"
    registry.quirk = lambda asked: asked.path.startswith(listed) and asked.answer(200, tags)
    return registry
