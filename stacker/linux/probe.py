"""Ask the kernel questions in child processes, which end after a time limit.

Functions come in; an `Answer` for each goes out.  A mount, a FUSE server or a network filesystem
can block a process without an end.  The caller waits only for pipes.  This module must not know
the questions.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from stacker.errors import StackerError
from stacker.linux.process import set_parent_death_signal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SECONDS: Final = 5.0
"""The default time limit of all probes together."""
_CHUNK: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a probe.

    :param works: ``None`` if the probe could not find out.
    :param reason: what works, or why it does not.
    """

    works: bool | None
    reason: str


def run_probes(
    probes: Mapping[str, Callable[[], Answer]], *, seconds: float = SECONDS
) -> dict[str, Answer]:
    """Run probes at the same time, each in a child process, and return their answers by name.

    An error of the kernel, and a `StackerError`, is the answer "does not work".

    :param seconds: the limit for all of them together.  The answer of a probe that takes longer is
        unknown, and its process is killed.
    """
    children: dict[str, _Child] = {}
    try:
        for name, probe in probes.items():
            children[name] = _Child(probe)
        end = time.monotonic() + seconds
        return {name: child.answer(end, seconds) for name, child in children.items()}
    finally:
        for child in children.values():
            child.end()


class _Child:
    """A process that runs one probe and writes the answer to a pipe."""

    def __init__(self, probe: Callable[[], Answer]) -> None:
        self._answer, answer = os.pipe()
        parent = os.getpid()
        # The child keeps the signals blocked: it must not run the handlers of its parent.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._pid = os.fork()
            if self._pid == 0:
                _run(probe, answer, parent)
        finally:
            os.close(answer)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def answer(self, end: float, seconds: float) -> Answer:
        """Return the answer.

        :param end: the time of the monotonic clock at which the answer becomes unknown.
        """
        data = b""
        poll = select.poll()
        poll.register(self._answer, select.POLLIN)
        while poll.poll(max(0, end - time.monotonic()) * 1000):
            part = os.read(self._answer, _CHUNK)
            if not part:
                return Answer(*json.loads(data)) if data else Answer(None, "the probe died")
            data += part
        return Answer(None, f"no answer from the kernel within {seconds:g} s")

    def end(self) -> None:
        """Kill the process if it runs; do not wait for a process that the kernel still blocks."""
        os.close(self._answer)
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        for _ in range(50):
            if os.waitpid(self._pid, os.WNOHANG)[0]:
                return
            time.sleep(0.002)


def _run(probe: Callable[[], Answer], to: int, parent: int) -> NoReturn:
    try:
        set_parent_death_signal(signal.SIGKILL)
        if os.getppid() == parent:
            answer = _answer_of(probe)
            os.write(to, json.dumps([answer.works, answer.reason]).encode())
    finally:
        os._exit(0)


def _answer_of(probe: Callable[[], Answer]) -> Answer:
    try:
        return probe()
    except StackerError as error:
        return Answer(works=False, reason=error.message)
    except OSError as error:
        about = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return Answer(works=False, reason=f"{about}{error.strerror}")
    except Exception as error:  # noqa: BLE001 - the command reports the other answers
        return Answer(works=None, reason=f"internal error: {type(error).__name__}: {error}")
