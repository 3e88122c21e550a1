"""Namespaces, capabilities and ID maps, compared with other programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stacker.linux import process
from tests.support.command import started

pytestmark = pytest.mark.usefixtures("alone_among_mounts")
IN_A_USER_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


def ask(expression: str, *prefix: str, python: str = sys.executable) -> str:
    code = f"from stacker.linux import process; print({expression})"
    command = [*prefix, python, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def can_unshare() -> bool:
    return subprocess.run([*IN_A_USER_NAMESPACE, "true"], check=False).returncode == 0


needs_user_namespaces = pytest.mark.skipif(
    not can_unshare(), reason="user namespaces are forbidden here"
)


def test_boot_id_is_stable() -> None:
    assert len(process.boot_id()) == len("01234567-89ab-cdef-0123-456789abcdef")
    assert process.boot_id() == ask("process.boot_id()")


def test_child_has_the_mount_namespace_of_its_parent() -> None:
    assert str(process.mount_namespace()) == ask("process.mount_namespace()")
    assert process.mount_namespace() == process.mount_namespace(os.getpid())
    assert process.mount_namespace() in process.live_mount_namespaces()


@needs_user_namespaces
def test_new_mount_namespace_is_listed_while_it_exists() -> None:
    command = [*IN_A_USER_NAMESPACE, "sh", "-c", "echo ready; read line"]
    with started(command, b"ready\n") as child:
        theirs = process.mount_namespace(child)
        assert theirs != process.mount_namespace()
        assert process.live_mount_namespaces()[theirs] == child


@needs_user_namespaces
def test_user_namespace_is_not_the_initial_one() -> None:
    assert ask("process.in_initial_user_namespace()", *IN_A_USER_NAMESPACE) == "False"
    assert ask("process.has_capability(process.CAP_SYS_ADMIN)", *IN_A_USER_NAMESPACE) == "True"
    maps = ask("process.uid_map(), process.gid_map()", *IN_A_USER_NAMESPACE)
    assert f"IdRange(inside=0, outside={os.getuid()}, count=1)" in maps
    assert f"IdRange(inside=0, outside={os.getgid()}, count=1)" in maps


def test_uid_map_matches_proc() -> None:
    lines = Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()
    want = [process.IdRange(*map(int, line.split())) for line in lines]
    assert list(process.uid_map()) == want


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop a capability")
def test_dropped_capability_is_not_effective(unprivileged_python: str) -> None:
    without = ("setpriv", "--reuid=65534", "--clear-groups")
    question = "process.has_capability(process.CAP_SYS_ADMIN)"
    assert ask(question, python=unprivileged_python) == "True"
    assert ask(question, *without, python=unprivileged_python) == "False"


def test_child_dies_with_its_parent() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ORPHAN], check=True, capture_output=True, text=True
    )
    # stdout closes only after the grandchild, which sleeps forever, has died.
    assert done.stdout == f"asked for {signal.SIGKILL:d}\n"


ORPHAN = """
import os, signal
from stacker.linux import process
reader, writer = os.pipe()
if os.fork():
    os.read(reader, 1)
    os._exit(0)
process.set_parent_death_signal(signal.SIGKILL)
print("asked for", int(signal.SIGKILL), flush=True)
os.write(writer, b".")
signal.pause()
"""


def test_invalid_signal_is_an_error() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        process.set_parent_death_signal(1000)


def test_start_time_differs_between_two_processes_and_stays() -> None:
    own = process.start_time(os.getpid())
    assert own == process.start_time(os.getpid())
    assert own > process.start_time(1)
    with pytest.raises(FileNotFoundError):
        process.start_time(1 << 30)


def test_start_time_is_read_after_a_name_with_parentheses() -> None:
    name = Path("/proc/self/comm")
    before, started = name.read_text(), process.start_time(os.getpid())
    try:
        name.write_text("a) b (c")
        assert process.start_time(os.getpid()) == started
    finally:
        name.write_text(before)
