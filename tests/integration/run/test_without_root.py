"""`stacker run` of a user who is not root."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stacker.linux.removal import remove_tree
from tests.integration.run.test_run import LOOP
from tests.support import runtimes
from tests.support.command import Stacker

USER = ("setpriv", "--reuid=65534", "--regid=65534", "--groups=4,65534")
SCRIPT = "id -u; echo x > /new; cat /new; [ -c /dev/null ] && ls /sys/class/net && exit 6"


@pytest.fixture
def user(unprivileged_python: str) -> Iterator[Stacker]:
    """Return a command of a user with the image ``app:1.0``, in a directory that the user owns."""
    path = Path(tempfile.mkdtemp(prefix="stacker-test-"))
    path.chmod(0o755)
    environ = {"HOME": str(path), "REGISTRY_AUTH_FILE": "", "DOCKER_CONFIG": ""}
    stacker = Stacker(path / "store", USER, unprivileged_python, environ)
    layout = runtimes.layout(path / "layout")
    os.chown(path, 65534, 65534)
    try:
        if stacker.run("pull", layout.source).code:
            pytest.skip("the user cannot read the temporary directory")
        yield stacker
    finally:
        remove_tree(path)


def test_process_is_root_of_a_user_namespace(user: Stacker) -> None:
    result = user.run("run", "app:1.0", "sh", "-c", SCRIPT)
    assert (result.out, result.code) == ("0\nx\nlo\n", 6), result.err
    host = user.run("run", "--network", "host", "app:1.0", "sh", "-c", SCRIPT)
    assert host.out.split() == ["0", "x", *sorted(os.listdir("/sys/class/net"))]
    assert os.listdir(user.store / "mounts") == []


def test_what_needs_root_is_refused(user: Stacker) -> None:
    assert "--keep requires root" in user.refused(125, "run", "--keep", "app:1.0", "true")
    assert "chroot" in user.refused(125, "run", "--runtime", "runc", "app:1.0", "true")
    assert "user 1000" in user.refused(125, "run", "-u", "1000", "app:1.0", "true")
    assert os.listdir(user.store / "mounts") == []


def test_killed_command_leaves_nothing_after_the_next_one(user: Stacker) -> None:
    process = user.start("run", "app:1.0", "sh", "-c", LOOP)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    user("mounts")
    assert os.listdir(user.store / "mounts") == []
