"""The services of `stacker snapshotter` without their transport, as containerd calls them."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from stacker.containerd.differ import Differ
from stacker.containerd.mounts import Directories, Mount
from stacker.containerd.snapshots import Snapshotter
from stacker.containerd.workers import Workers
from stacker.image.config import chain_ids
from stacker.image.descriptor import Descriptor
from stacker.image.digest import DiffID, Digest
from stacker.store.snapshotters import register
from stacker.store.store import Store
from tests.support.images import LAYER, Layout

T = TypeVar("T")


class InThisProcess(Workers):
    """Run each function in this process, and record its name."""

    def __init__(self) -> None:
        self.called: list[str] = []

    async def run(self, function: Callable[[Any], Any], argument: Any, what: str) -> Any:  # noqa: ARG002
        self.called.append(function.__name__)
        return function(argument)


class Services:
    """Both services, with a store.

    :param directory: where the store and the snapshots are.
    """

    def __init__(self, directory: Path) -> None:
        self.store = Store.open(directory / "store")
        directories = Directories(directory / "root", self.store.whiteout_format)
        directories.make()
        self.workers = InThisProcess()
        self.snapshots = Snapshotter(directories, self.store, self.workers)
        register(self.store, directories.root)

    def differ(self, content: Path) -> Differ:
        """Return a differ for a content store, such as the directory of a layout."""
        return Differ(self.snapshots, self.workers, content)

    def prepare(self, key: str, parent: str = "") -> list[Mount]:
        """Prepare a snapshot."""
        return done(self.snapshots.prepare(key, parent, {}))

    def apply(self, layout: Layout, number: int, mounts: Sequence[Mount]) -> Descriptor:
        """Apply a layer of a layout."""
        digest = layout.image.layers[number]
        size = layout.blob(digest).stat().st_size
        blob = Descriptor(f"{LAYER}+gzip", Digest.parse(digest), size)
        return done(self.differ(layout.path).apply(blob, mounts))

    def pull(self, layout: Layout) -> str:
        """Unpack an image as containerd does, and return the name of its topmost snapshot."""
        parent = ""
        chain = chain_ids([DiffID.parse(each) for each in layout.image.diff_ids])
        for number, name in enumerate(map(str, chain)):
            if not done(self.snapshots.select([f'name=="{name}"'])):
                key = f"default/{number}/extract-{number} {name}"
                found = self.apply(layout, number, self.prepare(key, parent))
                assert str(found.digest) == layout.image.diff_ids[number]
                done(self.snapshots.commit(key, name, {}))
            parent = name
        return parent

    def close(self) -> None:
        """Close the database."""
        self.snapshots.close()


def done(call: Coroutine[Any, Any, T]) -> T:
    """Run a call to its end, and return its result."""
    return asyncio.run(call)


@contextmanager
def mounted(mounts: Sequence[Mount], target: Path) -> Iterator[Path]:
    """Mount a snapshot for the block, with mount(8) through mount(2), as containerd does.

    fsconfig(2), which newer versions of mount(8) use, limits each option to 255 bytes.
    """
    [mount] = mounts
    target.mkdir(exist_ok=True)
    env = os.environ | {"LIBMOUNT_FORCE_MOUNT2": "always"}
    words = ["mount", "-t", mount.type, "-o", ",".join(mount.options), mount.source, str(target)]
    subprocess.run(words if mount.type != "bind" else ["mount", *words[3:]], check=True, env=env)
    try:
        yield target
    finally:
        subprocess.run(["umount", str(target)], check=True)
