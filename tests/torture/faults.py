"""Inject a fault into one system call of a command.

In come a scenario, a world and the number of the call to disturb.  Out come the command's exit
code and its stderr.  The tests compile `inject.c` and preload it into the command, so that one
counter covers all processes of the command.
"""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.torture.world import Scenario, World

_LIMIT: Final = 60  # seconds
_SOURCE: Final = Path(__file__).with_name("inject.c")


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
    """The compiled library, with a directory for its counter and its log."""

    library: Path
    directory: Path

    @classmethod
    def build(cls, directory: Path) -> Injector:
        """Compile the library into a directory."""
        library = directory / "inject.so"
        command = ["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-ldl"]
        subprocess.run(command, check=True)
        return cls(library, directory)

    def trace(self, scenario: Scenario, world: World) -> list[str]:
        """Run a scenario's command without a fault; return the names of its calls in order."""
        log = self.directory / "log"
        log.write_bytes(b"")
        code, stderr = self._run(scenario, world, {"INJECT_LOG": str(log)})
        assert code == 0, stderr
        return log.read_text().split()

    def disturb(self, scenario: Scenario, world: World, fault: Fault) -> tuple[int, str]:
        """Run a scenario's command with a fault.

        :returns: the exit code, negative for a signal, and stderr.
        """
        environ = {"INJECT_AT": str(fault.number), "INJECT_ERRNO": str(fault.error)}
        return self._run(scenario, world, environ)

    def _run(self, scenario: Scenario, world: World, environ: dict[str, str]) -> tuple[int, str]:
        counter = self.directory / "counter"
        counter.write_bytes(bytes(8))
        stacker = world.stacker
        preloaded = {"LD_PRELOAD": str(self.library), "INJECT_COUNTER": str(counter)}
        with (self.directory / "stderr").open("w+", errors="replace") as stderr:
            process = subprocess.Popen(
                stacker.words(*scenario.command(world)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env={**stacker.environment, **preloaded, **environ},
                process_group=0,
            )
            try:
                code = process.wait(_LIMIT)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            stderr.seek(0)
            return code, stderr.read()
