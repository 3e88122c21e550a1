"""`mount -t stacker` runs `mount.stacker`, also for an entry of fstab."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import Stacker
from tests.support.tars import file, tar

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts: needs root")

_SCRIPT = """\
set -e
mount -t overlay -o lowerdir=/usr/sbin,upperdir=$1/upper,workdir=$1/work overlay /usr/sbin
cp "$1/helper" /usr/sbin/mount.stacker
mount --fstab "$1/fstab" "$1/target"
cat "$1/target/file"
touch "$1/target/new" 2>/dev/null || echo refused
umount "$1/target"
mount -t stacker -o "rw,store=$2" app:1.0 "$1/target"
touch "$1/target/new" && echo written
mount -t stacker -o "store=$2" missing "$1/target/new" || echo "exit code $?"
umount "$1/target"
"""


def test_mount_runs_the_helper(stacker: Stacker, tmp_path: Path) -> None:
    stacker("pull", images.layout(tmp_path / "app", [tar(file("file", b"text\n"))]).source)
    for name in ("upper", "work", "target"):
        (tmp_path / name).mkdir()
    helper = tmp_path / "helper"
    code = "from stacker.cli.mount_helper import main; main()"
    helper.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{code}' \"$@\"\n")
    helper.chmod(0o755)
    options = f"ro,nofail,pull=never,driver=overlay,store={stacker.store}"
    (tmp_path / "fstab").write_text(f"app:1.0 {tmp_path}/target stacker {options} 0 0\n")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", _SCRIPT, "sh", str(tmp_path), str(stacker.store)],
        env=stacker.environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "text\nrefused\nwritten\nexit code 32\n"
    assert "the store has no image 'missing' either" in done.stderr
