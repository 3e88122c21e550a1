"""The wait for the end of a FUSE server."""

from __future__ import annotations

import os
import select

import pytest

from stacker.linux import process
from stacker.mount.drivers import fuse


def test_process_that_has_the_server_s_pid_by_now_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def poll() -> object:
        raise AssertionError("waits for another process")

    monkeypatch.setattr(select, "poll", poll)
    started = process.start_time(os.getpid())
    fuse.wait_for_process(os.getpid(), started - 1)
    with pytest.raises(AssertionError, match="waits"):
        fuse.wait_for_process(os.getpid(), started)


def test_wait_for_a_server_that_has_ended_returns() -> None:
    fuse.wait_for_process(1 << 30, 1)
