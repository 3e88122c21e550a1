"""A random series of writes, committed: the new image has the tree that the mount showed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stacker import Store
from tests.property.test_writes import OPERATIONS, Plain, outcome
from tests.support import images
from tests.support.mounts import unmount_below
from tests.support.snapshot import snapshot
from tests.support.stacks import scratch
from tests.support.tars import dir as directory
from tests.support.tars import file, hardlink, opaque, symlink, tar, whiteout

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts, and gives files away"),
    pytest.mark.usefixtures("alone_among_mounts"),
]
LAYERS = [
    tar(
        file("a", b"lower a"),
        hardlink("m", "a"),
        directory("d/"),
        directory("d/e/"),
        hardlink("d/e/a", "a"),
        file("d/a", b"x" * 9000),
        symlink("d/e/b", "d/b"),
        file("b", b"hidden"),
        directory("o/"),
        directory("l/"),
        file("l/hidden"),
    ),
    tar(
        whiteout("b"),
        file("d/b", b"upper b", xattrs={"user.kind": b"\0\xff"}),
        directory("l/"),
        opaque("l"),
    ),
]


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """Open a store with an image of two layers."""
    with scratch() as path:
        made = Store.open(path / "store")
        made.pull(images.layout(path / "app", LAYERS).source)
        yield made
        unmount_below(path)


@pytest.mark.parametrize("driver", ["overlay", "fuse"])
@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(OPERATIONS, max_size=30))
def test_random_writes_are_the_same_tree_after_a_commit(
    store: Store, driver: str, steps: list[tuple[object, ...]]
) -> None:
    with scratch() as path:
        for name in ("target", "again"):
            (path / name).mkdir()
        with store.mount("app:1.0", path / "target", writable=True, driver=driver):
            plain = Plain(path / "target")
            try:
                for method, *arguments in steps:
                    outcome(getattr(plain, str(method).replace(" ", "_")), arguments)
            finally:
                plain.close()
            seen = snapshot(path / "target")
            image = store.commit(path / "target", "changed")
        with store.mount(image, path / "again", driver=driver):
            assert snapshot(path / "again") == seen
        if driver == "overlay" and shutil.which("umoci"):
            store.push(image, f"oci:{path}/out:t")
            assert _by_umoci(path / "out", path / "bundle") == seen
        store.remove(image)


def _by_umoci(layout: Path, bundle: Path) -> object:
    command = ["umoci", "unpack", "--image", f"{layout}:t", str(bundle)]
    subprocess.run(command, check=True, capture_output=True)
    return snapshot(bundle / "rootfs")
