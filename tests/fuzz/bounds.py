"""Bound the processor time and the memory of one input.

In comes a target.  Out comes a function that runs one input and raises for any exception but a
`StackerError`.  The bounds hold for the whole process.
"""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import FrameType

    from tests.fuzz.targets import Target

SECONDS: Final = 5.0
"""Processor time of one input; the slowest seed takes 0.05 s with coverage."""
MEMORY: Final = 512 << 20
"""Bytes of address space beyond those in use at the start."""
_FILE_SIZE: Final = 64 << 20


class TooSlowError(BaseException):
    """An input took too much processor time.  No `Exception`: the code under test catches those."""


def bounded(target: Target) -> Callable[[bytes], None]:
    """Return a function that runs one input of a target in bounds."""
    from stacker.errors import StackerError

    _limit_memory()
    signal.signal(signal.SIGPROF, _interrupt)

    def run(data: bytes) -> None:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            target.run(data)
        except StackerError:
            pass
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    return run


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise TooSlowError(f"more than {SECONDS} s of processor time")


def _limit_memory() -> None:
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_SIZE, _FILE_SIZE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
