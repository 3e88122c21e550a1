"""Settings of all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from stacker.linux import lock, process
from tests.support.mounts import in_own_namespace
from tests.support.unprivileged import startable_python

# Property tests draw new examples on a developer's machine. CI always draws the same ones.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# A shell starts background jobs with SIGINT ignored, and every program inherits that (POSIX,
# "Signals and Error Handling"). execve(2) resets a handler to the default, so the commands under
# test die of SIGINT as they do for a user.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # nohup(1)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


in_own_namespace()


@pytest.fixture
def alone_among_mounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tests that unmount apart from tests that copy every mount.

    A new mount namespace holds a copy of every mount. Until the namespace ends, umount(2) elsewhere
    leaves the copy, so the program still finds the mount busy. Tests that run as root need no
    lock: each of their processes has its own mount namespace.
    """
    if in_own_namespace():
        yield
        return
    with lock.exclusive(tmp_path_factory.getbasetemp().parent / "mounts.lock"):
        yield


@pytest.fixture
def forks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process fork workers and FUSE servers, which then have what a test replaced.

    pytest-xdist has threads, so stacker starts new interpreters otherwise.
    """
    ignored = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
    request.applymarker(ignored)
    monkeypatch.setattr(process, "has_threads", lambda: False)


@pytest.fixture(scope="session")
def unprivileged_python() -> str:
    """Return an interpreter that UID 65534 can start; skip if none exists."""
    python = startable_python()
    if python is None:
        pytest.skip("UID 65534 can start no interpreter")
    return python
