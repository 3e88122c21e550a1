"""An image that OCI runtimes can run, and how to start each of them on a bundle."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import Result
from tests.support.tars import dir as directory
from tests.support.tars import file, symlink, tar

BUSYBOX = Path(shutil.which("busybox") or "/bin/busybox")
APPLETS = ("sh", "cat", "echo", "env", "id", "ls", "pwd", "touch", "true", "sleep", "hostname")
PASSWD = b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n"
GROUP = b"root:x:0:\napp:x:1001:\nwheel:x:10:app\n"
_PLAIN_CGROUP = """\
mount --make-rprivate / && umount --recursive /sys/fs/cgroup &&
mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec crun --cgroup-manager=disabled "$@"
"""
"""crun refuses a hybrid hierarchy, so it gets a mount namespace with a plain one."""


def skip_below(folder: Path, items: list[pytest.Item]) -> None:
    """Skip the tests of a folder without root or busybox."""
    reason = "mounts: needs root" if os.geteuid() else "busybox is not installed"
    if os.geteuid() or not BUSYBOX.exists():
        for item in items:
            if item.path.is_relative_to(folder):
                item.add_marker(pytest.mark.skip(reason=reason))


def busybox() -> bytes:
    """Return a layer with a static busybox, without /proc, /dev and /sys."""
    return tar(
        directory("bin/"),
        file("bin/busybox", BUSYBOX.read_bytes(), mode=0o755),
        *(symlink(f"bin/{name}", "busybox") for name in APPLETS),
        directory("etc/"),
        file("etc/passwd", PASSWD),
        file("etc/group", GROUP),
        directory("srv/"),
        directory("usr/"),
    )


def layout(path: Path, *layers: bytes, **execution: object) -> images.Layout:
    """Write a layout of the image ``app:1.0``: busybox and more layers.

    :param execution: fields of the config's ``config``.
    """
    return images.layout(
        path,
        [busybox(), *layers],
        compression="none",
        config=lambda members: members.update(config=execution),
    )


def command(runtime: str, bundle: Path, name: str) -> list[str]:
    """Return the command that runs a bundle."""
    if runtime == "systemd-nspawn":
        options = ["--quiet", "--register=no", "--keep-unit", f"--oci-bundle={bundle}"]
        return [runtime, *options]
    words = ["run", "--bundle", str(bundle), name]
    if runtime == "crun":
        return ["unshare", "--mount", "sh", "-c", _PLAIN_CGROUP, "crun", *words]
    return [runtime, *words]


def run(runtime: str, bundle: Path) -> Result:
    """Run a bundle to its end, or skip the test if the runtime is not installed."""
    if shutil.which(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    done = subprocess.run(
        command(runtime, bundle, f"test-{os.urandom(4).hex()}"),
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    return Result(done.returncode, done.stdout, done.stderr)
