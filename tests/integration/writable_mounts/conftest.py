"""A stack of layers, mounted writable by overlayfs and by FUSE."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stacker.mount.drivers.fuse import FuseDriver
from tests.support.mounts import unmount_below
from tests.support.stacks import scratch
from tests.support.writable_mounts import DRIVERS, Stack


@pytest.fixture
def stack() -> Iterator[Stack]:
    with scratch() as workspace:
        yield Stack(workspace)
        unmount_below(workspace)


@pytest.fixture(params=DRIVERS, ids=str)
def root(request: pytest.FixtureRequest, stack: Stack) -> Iterator[Path]:
    with stack.mounted(DRIVERS[request.param]) as target:
        yield target


@pytest.fixture
def fuse_root(stack: Stack) -> Iterator[Path]:
    with stack.mounted(FuseDriver()) as target:
        yield target
