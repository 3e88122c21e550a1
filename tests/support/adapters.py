"""The FUSE adapters, for tests that run with each of them."""

from __future__ import annotations

import os

import pytest

from stacker.fuse.adapters import is_installed
from stacker.fuse.options import FuseAdapter

ADAPTERS: tuple[FuseAdapter, ...] = ("kernel", "pyfuse3")


def skip_without(adapter: FuseAdapter) -> None:
    """Skip a test if an adapter is not installed."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("no /dev/fuse")
    if not is_installed(adapter):
        pytest.skip(f"{adapter} is not installed: the extra `fuse`")
