"""Run commands as forks of a server in which a fault can be injected.

In come a command's arguments, environment and input.  Its result comes out.  The server knows
nothing of worlds and faults: the environment of a command arms the injector, which is preloaded.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

from tests.support.command import Result, Stacker
from tests.support.forkserver import Server

_SOURCE: Final = Path(__file__).with_name("inject.c")


@cache
def shared_server() -> Server:
    """Return a server with the injector, which this process keeps until its end."""
    return Server.started(Stacker(Path("/nonexistent")).environment, preloaded=library())


def library() -> Path:
    """Return the compiled injector."""
    return Path(_compiled().name, "inject.so")


@cache
def _compiled() -> tempfile.TemporaryDirectory[str]:
    """Compile the injector into a directory that this process keeps until its end."""
    directory = tempfile.TemporaryDirectory(prefix="stacker-inject-")
    output = Path(directory.name, "inject.so")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", output, _SOURCE, "-ldl"], check=True)
    return directory


@dataclass(frozen=True)
class ForkedStacker(Stacker):
    """The command with one store, run by a server unless `start` runs it."""

    server: Server = field(kw_only=True)

    def run(self, *words: str | Path, cwd: Path | None = None) -> Result:
        """Run the command, and return its result."""
        assert cwd is None, "a command with a fault runs in the server's working directory"
        result = self.run_with({}, *words)
        assert "Traceback" not in result.err, result.err
        return result

    def run_with(self, environ: dict[str, str], *words: str | Path, text: str = "") -> Result:
        """Run the command with additional environment variables, and with text on stdin."""
        with (
            tempfile.TemporaryFile() as given,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
        ):
            os.pwrite(given.fileno(), text.encode(), 0)
            process = self.server.start(
                ["--store", str(self.store), *map(str, words)],
                {**self.environment, **environ},
                (given.fileno(), out.fileno(), err.fileno()),
            )
            code = process.wait()
            return Result(code, _read(out.fileno()), _read(err.fileno()))


def _read(fd: int) -> str:
    return os.pread(fd, os.fstat(fd).st_size, 0).decode("utf-8", "surrogateescape")
