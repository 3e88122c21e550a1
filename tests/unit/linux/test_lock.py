"""Locks between processes."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from stacker.linux import lock

if TYPE_CHECKING:
    from pathlib import Path

TRY = """
import sys
from pathlib import Path
from stacker.linux import lock
print(lock.try_exclusive(Path(sys.argv[1]), create=sys.argv[2] == "create") is not None)
"""


def other_process_gets_it(path: Path, *, create: bool = True) -> bool:
    command = [sys.executable, "-c", TRY, str(path), "create" if create else "there"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout == "True\n"


def test_exclusive_lock_excludes_other_processes(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with lock.exclusive(path):
        assert not other_process_gets_it(path)
    assert other_process_gets_it(path)


def test_shared_locks_exclude_only_exclusive_ones(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with lock.shared(path), lock.shared(path):
        assert lock.try_exclusive(path) is None
        second = lock.try_shared(path)
        assert second is not None
        second.release()
    with lock.exclusive(path):
        assert lock.try_shared(path) is None


def test_missing_lock_file_is_created_with_mode_0600(tmp_path: Path) -> None:
    with lock.exclusive(tmp_path / "lock"):
        assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600


def test_directory_is_locked(tmp_path: Path) -> None:
    with lock.exclusive(tmp_path, create=False):
        assert not other_process_gets_it(tmp_path, create=False)
    assert other_process_gets_it(tmp_path, create=False)


def test_missing_file_without_create_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        lock.exclusive(tmp_path / "lock", create=False)
    assert not (tmp_path / "lock").exists()


def test_lock_after_an_unlink_is_on_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = lock.exclusive(path)
    waiting = subprocess.Popen(
        [sys.executable, "-c", WAIT, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert waiting.stdin is not None
    assert waiting.stdout is not None
    with waiting, waiting.stdin, waiting.stdout:
        assert waiting.stdout.readline() == b"waiting\n"
        path.unlink()
        with lock.exclusive(path):  # a new file, which the waiting process must lock instead
            held.release()
            assert waiting.poll() is None
        assert waiting.stdout.readline() == b"same file\n"


WAIT = """
import os, sys
from pathlib import Path
from stacker.linux import lock
path = Path(sys.argv[1])
print("waiting", flush=True)
with lock.exclusive(path) as held:
    same = os.path.samestat(os.fstat(held.descriptor), path.stat())
    print("same file" if same else "another file", flush=True)
"""


def test_lock_is_not_inherited_across_exec(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = lock.exclusive(path)
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False
    )
    assert child.stdin is not None
    with child, child.stdin:
        held.release()
        assert other_process_gets_it(path)


def test_second_release_does_nothing(tmp_path: Path) -> None:
    held = lock.exclusive(tmp_path / "lock")
    held.release()
    held.release()


def test_lock_on_a_byte_excludes_only_locks_on_that_byte(tmp_path: Path) -> None:
    path = tmp_path / "locks"
    with lock.ByteLocks(path) as reader, lock.ByteLocks(path) as other:
        reader.share(5)
        other.share(5)
        assert not other.try_exclude(5)
        assert other.try_exclude(2**63 - 1)
        reader.release()
        assert other.try_exclude(5)


def test_locks_on_bytes_need_one_descriptor(tmp_path: Path) -> None:
    with lock.ByteLocks(tmp_path / "locks") as locks:
        before = len(os.listdir("/proc/self/fd"))
        for offset in range(2000):
            locks.share(3 * offset)
        assert len(os.listdir("/proc/self/fd")) == before


def test_locks_on_bytes_are_released_when_the_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "locks"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with lock.ByteLocks(path) as locks:
            assert not locks.try_exclude(7)
            holder.kill()
            holder.wait()
            assert locks.try_exclude(7)


def test_without_locks_on_bytes_the_whole_file_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, "no such command")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    path = tmp_path / "locks"
    with lock.ByteLocks(path) as reader, lock.ByteLocks(path) as other:
        reader.share(5)
        reader.share(6)
        other.share(5)
        other.release()
        with lock.ByteLocks(path) as remover:
            assert not remover.try_exclude(7)
            reader.release()
            assert remover.try_exclude(7)
            assert remover.try_exclude(8)


HOLD = """
import sys, time
from pathlib import Path
from stacker.linux import lock
locks = lock.ByteLocks(Path(sys.argv[1]))
locks.share(7)
print("held", flush=True)
time.sleep(600)
"""
