"""A root filesystem with a user database, and configs of an image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stacker.runtime.root import Root

PASSWD = b"""\
root:x:0:0:root:/root:/bin/sh
broken line
app:x:1000:1001:an app:/home/app:/bin/sh
\xff:x:7:7::/:/bin/sh
huge:x:4294967295:1::/:/bin/sh
"""
GROUP = b"root:x:0:\nwheel:x:10:app,other\nvideo:x:44:app\nhuge:x:99999999999999999999:\n"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a root filesystem with three users."""
    found = tmp_path / "rootfs"
    (found / "etc").mkdir(parents=True)
    (found / "etc/passwd").write_bytes(PASSWD)
    (found / "etc/group").write_bytes(GROUP)
    return found


@pytest.fixture
def root(directory: Path) -> Iterator[Root]:
    """Open the root filesystem."""
    with Root.open(directory) as opened:
        yield opened
