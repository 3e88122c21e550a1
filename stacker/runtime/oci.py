"""Run a container by an OCI runtime: runc or crun.

A bundle and a command come in; the process of the runtime goes out, which ends with the exit code
of the container's process.  The runtime keeps its state and its log in the bundle, so both vanish
with it.  This module must not use mounts.

Sources: runc(8), crun(1); runtime-spec runtime.md ("Operations").
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stacker.errors import NotFoundError, StackerError, StartError
from stacker.linux import process

if TYPE_CHECKING:
    from stacker.runtime.streams import Streams

RUNTIMES: Final = ("runc", "crun")
"""The runtimes that ``auto`` looks for, in this order."""
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_WITH_UMASK: Final = ("/bin/sh", "-c", 'umask 022; exec "$@"', "sh")
"""With the umask of this process, a user of the container may not reach the mount points that the
runtime creates."""
_LOG, _STATE = "log.json", "state"
_MISSING = ("executable file not found", "no such file or directory", "not found in $path")
_REFUSED = ("permission denied", "exec format error", "is a directory")


@dataclass(frozen=True, slots=True)
class Runtime:
    """An OCI runtime, and the container of one bundle.

    :param command: the program, absolute, and its global options.
    :param bundle: the bundle; its name is the ID of the container.
    """

    command: tuple[str, ...]
    bundle: Path

    def start(self, streams: Streams) -> int:
        """Start the container, and return the ID of the runtime's process.

        The caller waits for it (waitpid(2)).

        :raises StackerError: the runtime cannot be executed.
        """
        words = (*self._words, "run", "--bundle", str(self.bundle), self.bundle.name)
        if not os.access(words[0], os.X_OK):
            raise StackerError(f"cannot execute the runtime: {words[0]}")
        return process.spawn((*_WITH_UMASK, *words), {"PATH": _PATH}, streams.numbers)

    def failure(self, program: str) -> StackerError | None:
        """Return why the runtime has failed; ``None`` if it has started the process.

        :param program: the program of the process, for the error.
        """
        errors = [entry for entry in self._log() if entry.get("level") in {"error", "fatal"}]
        if not errors:
            return None
        name = os.path.basename(self.command[0])
        text = str(errors[-1].get("msg", "")).removeprefix(f"{name} run failed: ")
        failure = StartError(f"cannot start the process: {program}: {name}: {text}")
        lower = text.lower()
        if any(words in lower for words in _MISSING):
            failure.exit_code = 127
        elif any(words in lower for words in _REFUSED):
            failure.exit_code = 126
        else:
            return StackerError(f"cannot start the process: {program}: {name}: {text}")
        return failure

    def delete(self) -> None:
        """Kill the container's processes and remove its cgroup; nothing happens without one."""
        if not (self.bundle / _STATE / self.bundle.name).exists():
            return
        with open(os.devnull, "r+b") as null, suppress(OSError, ChildProcessError):
            words = (*self._words, "delete", "--force", self.bundle.name)
            os.waitpid(process.spawn(words, {"PATH": _PATH}, [null.fileno()] * 3), 0)

    @property
    def _words(self) -> tuple[str, ...]:
        state, log = self.bundle / _STATE, self.bundle / _LOG
        own = ("--root", str(state), "--log", str(log), "--log-format", "json")
        return (*self.command, *own)

    def _log(self) -> list[dict[str, object]]:
        import json

        entries: list[dict[str, object]] = []
        with suppress(OSError):
            for line in (self.bundle / _LOG).read_bytes().splitlines():
                with suppress(ValueError):
                    entries.append(json.loads(line))
        return entries


def find_runtime(name: str) -> str | None:
    """Return the absolute path of a runtime, in the directories of a standard ``PATH``.

    :param name: one of `RUNTIMES`; ``auto`` for the first that is installed, ``None`` if none is.
    :raises NotFoundError: the named runtime is not installed.
    """
    for each in RUNTIMES if name == "auto" else (name,):
        for directory in _PATH.split(":"):
            if os.access(path := f"{directory}/{each}", os.X_OK):
                return path
    if name == "auto":
        return None
    raise NotFoundError(
        f"runtime is not installed: {name}: it is in none of {_PATH}",
        hint=f"install the package {name}, or use --runtime chroot",
    )
