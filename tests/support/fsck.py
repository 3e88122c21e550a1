"""Check EROFS images with fsck.erofs and dump.erofs of erofs-utils, version 1.8 or later.

Images and their tars come in; an assertion fails if fsck.erofs finds an error.  `scripts/test`
installs the program, or extracts that of Debian 13 into the cache.
"""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

_CACHE = Path(os.environ.get("STACKER_CHROOTS", "/var/cache/stacker"), "erofs-utils-13")
_OLD = re.compile(r" 1\.[0-7](\.|$)", re.MULTILINE)
"""Versions that refuse blocks of 512 bytes."""

_COUNT = re.compile(r"^Filesystem (.*) count:\s*(\d+)$", re.MULTILINE)


@cache
def fsck_command() -> tuple[str, ...] | None:
    """Return the command of a suitable fsck.erofs, or ``None``."""
    for loader in _CACHE.glob("usr/lib/*/ld-linux*"):
        return (f"{loader}", "--library-path", f"{loader.parent}", f"{_CACHE}/usr/bin/fsck.erofs")
    try:
        done = subprocess.run(["fsck.erofs", "-V"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return None if _OLD.search(done.stdout) else ("fsck.erofs",)


def dump_command() -> tuple[str, ...]:
    """Return the command of the dump.erofs beside the fsck.erofs."""
    *words, fsck = fsck_command() or ("",)
    return (*words, fsck.replace("fsck.erofs", "dump.erofs"))


needs_fsck = pytest.mark.skipif(
    fsck_command() is None, reason="no fsck.erofs of version 1.8 or later: run scripts/test as root"
)


def assert_sound(image: Path, *tars: Path, contents: bool = True) -> None:
    """Check an image.

    :param contents: also read every file.
    """
    command = [*(fsck_command() or ()), *(["--extract"] if contents else [])]
    command += [f"--device={tar}" for tar in tars]
    done = subprocess.run([*command, image], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stdout + done.stderr


def dumped_counts(image: Path, *tars: Path) -> dict[str, int]:
    """Return the number of files of each kind, as dump.erofs finds them from the root."""
    command = [*dump_command(), "-s", "-S", *(f"--device={tar}" for tar in tars)]
    done = subprocess.run([*command, image], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stdout + done.stderr
    return {found[1]: int(found[2]) for found in _COUNT.finditer(done.stdout)}
