"""An image for FUSE mounts, the mounts and their servers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stacker.fuse.options import FuseAdapter
from tests.support import images
from tests.support.adapters import skip_without
from tests.support.command import Stacker
from tests.support.mounts import unmount_below
from tests.support.tars import dir, file, hardlink, symlink, tar, whiteout  # noqa: A004 - the word for it

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


@contextmanager
def pulled(tmp_path: Path, layers: list[bytes], form: str) -> Iterator[Stacker]:
    """Pull layers as the image ``app:1.0`` for mounts by the kernel's protocol; unmount at the end.

    :param form: the form of the layers.
    """
    skip_without("kernel")
    stacker = Stacker(tmp_path / "store")
    source = images.layout(tmp_path / "app", layers).source
    stacker("pull", "--sync", "--form", form, source)
    yield stacker
    unmount_below(tmp_path)


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
