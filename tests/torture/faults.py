"""Inject a fault into one system call of a command.

In come a scenario, a world and the number of the call to disturb.  Out come the command's exit
code and its output.  The environment arms the injector in each process of the command, and they
share one counter.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.forkserver import ARMED
from tests.torture.forkserver import library

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command import Result
    from tests.torture.scenarios import Scenario
    from tests.torture.world import World


@dataclass(frozen=True)
class Fault:
    """A fault in one system call.

    :param number: the number of the call in the command, from 1.
    :param call: the name of the call, for messages.
    :param error: the errno that the call returns; 0 kills the process group instead.
    """

    number: int
    call: str
    error: int = 0

    def __str__(self) -> str:
        effect = os.strerror(self.error) if self.error else "killed"
        return f"call {self.number}, {self.call}: {effect}"


@dataclass(frozen=True)
class Injector:
    """Faults in the commands of worlds.

    :param directory: for the counter and the log.
    :param reads: disturb the calls that only read, and the calls on sockets, not the others.
    """

    directory: Path
    reads: bool = False

    def trace(self, scenario: Scenario, world: World) -> tuple[list[str], Result]:
        """Run a scenario's command without a fault.

        :returns: the names of its calls in order, and its result.  With `reads`, the kind of the
            descriptor and the path follow each name.
        """
        log = self.directory / "log"
        log.write_bytes(b"")
        result = self._run(scenario, world, {"INJECT_LOG": str(log)})
        assert result.code == 0, result.err
        return os.fsdecode(log.read_bytes()).split("\n")[:-1], result

    def disturb(self, scenario: Scenario, world: World, fault: Fault) -> Result:
        """Run a scenario's command with a fault.

        :returns: its output and its exit code, negative for a signal.
        """
        environ = {"INJECT_AT": str(fault.number), "INJECT_ERRNO": str(fault.error)}
        return self._run(scenario, world, environ)

    def _run(self, scenario: Scenario, world: World, environ: dict[str, str]) -> Result:
        counter = self.directory / "counter"
        counter.write_bytes(bytes(8))
        helpers = {"LD_PRELOAD": str(library()), ARMED: str(counter)}
        chosen = {"INJECT_READS": "1"} if self.reads else {}
        return scenario.run(world, {**helpers, **chosen, **environ})
