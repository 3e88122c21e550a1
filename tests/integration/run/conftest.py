"""A store with an image that contains busybox, and the runtimes of this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import runtimes
from tests.support.command import Result, Stacker, at_home
from tests.support.mounts import unmount_below
from tests.support.tars import file, tar

Run = Callable[..., Result]

_PLAIN_CGROUP = """\
mount --make-rprivate / && umount --recursive /sys/fs/cgroup &&
mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    runtimes.skip_below(Path(__file__).parent, items)


@pytest.fixture(scope="module")
def stacker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stacker]:
    """Return a command whose store has the image ``app:1.0``."""
    path = tmp_path_factory.mktemp("run")
    stacker = at_home(path)
    layer = tar(file("etc/secret", b"text\n", mode=0o640))
    source = runtimes.layout(
        path / "layout", layer, Cmd=["echo", "default"], Env=["A=1", "BROKEN"], WorkingDir="/srv"
    ).source
    stacker("pull", "--sync", source)
    yield stacker
    unmount_below(path)


def with_runtime(stacker: Stacker, runtime: str) -> tuple[Stacker, list[str]]:
    """Return a command and the options that select a runtime, where it can run."""
    if runtime != "chroot" and shutil.which(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    options = ["run", "--runtime", runtime]
    if runtime == "crun":  # it refuses a hybrid hierarchy of cgroups
        options += ["--runtime-flag", "cgroup-manager=disabled"]
        stacker = replace(stacker, wrap=("unshare", "--mount", "sh", "-c", _PLAIN_CGROUP, "sh"))
    return stacker, options


@pytest.fixture(params=["chroot", "runc", "crun"])
def run(stacker: Stacker, request: pytest.FixtureRequest) -> Run:
    """Return a function that runs a process by each runtime, and expects nothing to be left."""
    command, options = with_runtime(stacker, request.param)

    def run_it(*words: str | Path) -> Result:
        result = command.run(*options, *words)
        assert os.listdir(stacker.store / "mounts") == []
        return result

    return run_it
