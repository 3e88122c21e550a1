"""podman with stacker-fuse as its mount program."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stacker.linux import mountapi, mountinfo
from tests.support.stacker_fuse import StackerFuse

BUSYBOX = shutil.which("busybox")
RUNTIMES = [name for name in ("crun", "runc") if shutil.which(name)]
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="podman as root"),
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse"),
    pytest.mark.skipif(not shutil.which("podman"), reason="no podman"),
    pytest.mark.skipif(BUSYBOX is None, reason="no busybox: package busybox-static"),
    pytest.mark.usefixtures("alone_among_mounts"),
]
WITHOUT_LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
"""podman's default limits can exceed those of the machine."""
NOT_OURS = ("cgroup", "not compatible with NoCgroups")
"""Messages of runtimes on a machine without the cgroups that they need."""


class Podman:
    """podman with its own storage, and an image `box` of busybox."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.fuse = StackerFuse(workspace)
        self.runtime = ""
        self.limits: tuple[str, ...] = ()

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run podman, and return its result."""
        places = {"root": "storage", "runroot": "run", "tmpdir": "tmp"}
        command = ["podman", *(f"--{key}={self.workspace / name}" for key, name in places.items())]
        command += ["--storage-driver=overlay", "--cgroup-manager=cgroupfs"]
        command += [f"--storage-opt=overlay.mount_program={self.fuse.program}"]
        if self.runtime:
            command.append(f"--runtime={self.runtime}")
        return subprocess.run(
            [*command, *words], capture_output=True, text=True, check=False, timeout=200
        )

    def __call__(self, *words: str) -> str:
        """Run podman, which must succeed, and return the last line of stdout."""
        done = self.run(*words)
        assert done.returncode == 0, done
        return (done.stdout.splitlines() or [""])[-1]

    def started(self, *words: str) -> str:
        """Run a container with the first runtime that works on this machine."""
        refusals = []
        again = ["--replace"] if any(word.startswith("--name") for word in words) else []
        for runtime in [self.runtime] if self.runtime else RUNTIMES:
            self.runtime = runtime
            for cgroups in (("--cgroups=disabled",), ()):
                done = self.run(
                    *("run", "--network=none", *WITHOUT_LIMITS, *cgroups, *again, *words)
                )
                if done.returncode == 0:
                    return done.stdout
                refusals.append(done.stderr)
                if not any(each in done.stderr for each in NOT_OURS):
                    raise AssertionError(done)
        return pytest.skip(f"no runtime that can run a container here: {refusals}")

    def layer(self, container: str) -> Path:
        """Return the upper directory of a container."""
        data = json.loads(self.run("inspect", container).stdout)[0]["GraphDriver"]["Data"]
        return Path(data["UpperDir"])


@pytest.fixture
def podman() -> Iterator[Podman]:
    workspace = Path(tempfile.mkdtemp(prefix="st"))  # podman wants paths of 50 characters at most
    workspace.chmod(0o755)  # for containers with user namespaces
    podman = Podman(workspace)
    box(workspace / "box.tar")
    podman("import", str(workspace / "box.tar"), "localhost/box:1")
    yield podman
    podman.run("rm", "--all", "--force")
    podman.fuse.end()
    for mount in reversed(mountinfo.read().below(workspace)):
        mountapi.umount2(mount.mount_point, mountapi.MNT_DETACH)
    shutil.rmtree(workspace)


def box(path: Path) -> None:
    """Write the tar of a root filesystem to a file."""
    assert BUSYBOX is not None
    with tarfile.open(path, "w") as tar:
        tar.add(BUSYBOX, "bin/busybox")
        for name in ("sh", "cat", "rm", "mkdir", "mount", "id", "stat"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for name, content in (("etc/motd", b"hello"), ("data/old/file", b"old")):
            file = tarfile.TarInfo(name)
            file.size = len(content)
            tar.addfile(file, io.BytesIO(content))


@pytest.mark.unmeasured  # a measured server outlives its mount: it writes its data first
def test_podman_runs_and_commits_a_container(podman: Podman) -> None:
    script = (
        "set -e; cat /etc/motd; rm /etc/motd; echo new > /etc/new;"
        " rm -r /data/old; mkdir /data/old; echo again > /data/old/other; mount"
    )
    message = podman.started("--name=one", "localhost/box:1", "sh", "-c", script)
    assert message.startswith("hello")
    assert "stacker-fuse on / type fuse.stacker-fuse" in message
    upper = podman.layer("one")
    assert (upper / "etc/new").read_text() == "new\n"
    assert stat.S_ISCHR((upper / "etc/motd").lstat().st_mode)
    assert os.getxattr(upper / "data/old", "trusted.overlay.opaque") == b"y"
    assert not podman.fuse.servers()  # the server exits with the container

    podman("commit", "one", "localhost/box:2")
    script = "cat /etc/new /data/old/*; stat /etc/motd 2>/dev/null || echo gone"
    message = podman.started("--rm", "--read-only", "localhost/box:2", "sh", "-c", script)
    assert message.split() == ["new", "again", "gone"]


def test_podman_restarts_a_container_with_its_writes(podman: Podman) -> None:
    script = "echo once >> /log; cat /log"
    assert podman.started("--name=one", "localhost/box:1", "sh", "-c", script) == "once\n"
    assert podman("start", "--attach", "one") == "once"
    assert (podman.layer("one") / "log").read_text() == "once\n" * 2


def test_podman_mounts_an_image(podman: Podman) -> None:
    target = Path(podman("image", "mount", "localhost/box:1"))
    found = mountinfo.at(target)
    assert found is not None
    assert (found.fstype, found.read_only) == ("fuse.stacker-fuse", True)
    assert (target / "etc/motd").read_bytes() == b"hello"
    podman("image", "umount", "--all")
    assert mountinfo.at(target) is None


def test_podman_runs_a_container_with_its_own_ids(podman: Podman) -> None:
    # podman 4.3 maps layers twice, by idmapped mounts and by `uidmapping`: both must hit the range.
    ids = ("--uidmap=0:1000:5000", "--gidmap=0:1000:5000")
    script = "set -e; echo new > /tmp/new; id -u; stat -c %u:%g /tmp/new"
    message = podman.started(
        "--name=one", *ids, "localhost/box:1", "sh", "-c", f"mkdir /tmp; {script}"
    )
    assert message.split() == ["0", "0:0"]
    status = (podman.layer("one") / "tmp/new").stat()
    assert (status.st_uid, status.st_gid) == (0, 0)
