"""Run commands as forks of one process that has imported stacker.

In come a command's arguments, environment, working directory and standard streams.  A child of the
server runs it in a process group of its own; its process ID and its status come out.  The server
knows nothing of stores, worlds and faults.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NoReturn

from tests.support import measured
from tests.support.mounts import in_own_namespace

REPOSITORY: Final = Path(__file__).parents[2]
LIMIT: Final = 120  # seconds that one command may take on a busy machine
LONGEST: Final = 1 << 16  # bytes of a request
BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
MEASURED: Final = "COVERAGE_PROCESS_CONFIG"
"""The environment variable that a command has whose coverage is measured."""
ARMED: Final = "INJECT_COUNTER"
"""The environment variable that a command with a fault has."""
_IMPORTED_LATER: Final = ("encodings.ascii", "encodings.idna", "xattr", "zstandard")
"""Modules that functions of stacker, or of the standard library, import."""
_NUMBER: Final = struct.Struct("=i")
_TITLE: Final = "-" * 4096
"""An argument of the server, in whose memory a command writes its own arguments."""


class Process:
    """One command that a server runs.

    :param pid: its process ID, which is also the ID of its process group.
    """

    def __init__(self, reply: int) -> None:
        self._reply = reply
        self.pid = self._number()
        self._code: int | None = None

    def _number(self) -> int:
        data = os.read(self._reply, _NUMBER.size)
        assert data, "the fork server ended"
        return int(_NUMBER.unpack(data)[0])

    def wait(self) -> int:
        """Wait for the end of the command.

        :returns: its exit code, negative for a signal.
        :raises AssertionError: it takes longer; it is killed.
        """
        if self._code is None:
            ended = select.select([self._reply], [], [], LIMIT)[0]
            if not ended:
                os.killpg(self.pid, signal.SIGKILL)
            self._code = self._number()
            os.close(self._reply)
            assert ended, f"the command did not end within {LIMIT} s"
        return self._code


class Server:
    """A process that runs commands; it ends with its owner.

    :param control: the owner's socket.
    :param process: the server's process.
    """

    def __init__(self, control: socket.socket, process: Process | subprocess.Popen[bytes]) -> None:
        self._control = control
        self.process = process
        self._lock = threading.Lock()

    @classmethod
    def started(cls, environ: Mapping[str, str], *, preloaded: Path | None = None) -> Server:
        """Start a server.

        :param environ: its environment.
        :param preloaded: a library that the server loads before others.
        """
        control, other = _sockets()
        with other:
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(other.fileno()), _TITLE],
                cwd=REPOSITORY,
                env=_environment(environ, preloaded),
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                process_group=0,
            )
        assert control.recv(1), "the server ended at its start"
        return cls(control, process)

    @contextmanager
    def after_a_boot(self, directory: Path) -> Iterator[Server]:
        """Fork a server whose commands see another boot ID, as after a boot.

        Its mount namespace is a copy, so its mounts end with it and its commands.

        :param directory: gets the file that is mounted over the kernel's boot ID.
        """
        control, other = _sockets()
        file = directory / "boot_id"
        file.write_text(f"{uuid.uuid4()}\n")
        with control, other:
            process = self._request({"boot_id": str(file)}, [other.fileno()])
            other.close()
            yield Server(control, process)
            control.close()
            process.wait()

    def start(
        self,
        words: Sequence[str],
        environ: Mapping[str, str],
        streams: Sequence[int],
        cwd: Path | None = None,
    ) -> Process:
        """Start ``stacker WORD...``.

        :param streams: the descriptors of its standard streams.
        :param cwd: its working directory, by default the server's.
        """
        task = {"words": list(words), "environ": dict(environ), "cwd": str(cwd or REPOSITORY)}
        return self._request(task, list(streams))

    def _request(self, request: Mapping[str, object], descriptors: list[int]) -> Process:
        reply, writer = os.pipe()
        with self._lock:
            socket.send_fds(self._control, [json.dumps(request).encode()], [*descriptors, writer])
        os.close(writer)
        return Process(reply)


def _environment(environ: Mapping[str, str], preloaded: Path | None) -> dict[str, str]:
    """Return the environment of a server, whose own coverage is not measured.

    Each command would save what the server ran, too, and that is every module's definitions.
    """
    own = {name: value for name, value in environ.items() if name != MEASURED}
    return {**own, **({"LD_PRELOAD": str(preloaded)} if preloaded else {})}


def _sockets() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def serve(control: socket.socket) -> None:
    """Run commands until the owner closes its socket."""
    children: dict[int, tuple[int, int]] = {}
    while True:
        for ready in select.select([control.fileno(), *children], [], [])[0]:
            if ready != control.fileno():
                _report(ready, *children.pop(ready))
            elif not (request := socket.recv_fds(control, LONGEST, 4))[0]:
                return
            else:
                pid = _start(request[0], request[1])
                reply = request[1].pop()
                os.write(reply, _NUMBER.pack(pid))
                children[os.pidfd_open(pid)] = pid, reply
                for fd in request[1]:
                    os.close(fd)


def _report(pidfd: int, pid: int, reply: int) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.write(reply, _NUMBER.pack(code))
    os.close(reply)
    os.close(pidfd)


def _start(request: bytes, descriptors: list[int]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            task = json.loads(request)
            if "boot_id" in task:
                _serve_after_a_boot(task["boot_id"], descriptors[0])
            else:
                _run(descriptors, **task)
        finally:
            os._exit(0 if "boot_id" in task else 70)
    with suppress(PermissionError):  # the command has ended, or has run another program
        os.setpgid(pid, pid)  # also here, so that the group exists when the owner gets its number
    return pid


def _run(streams: list[int], words: list[str], environ: dict[str, str], cwd: str) -> NoReturn:
    from stacker.cli import command

    for number, fd in enumerate(streams[:3]):
        os.dup2(fd, number)
    os.closerange(3, 1 << 16)
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(cwd)
    sys.argv = ["stacker", *words]
    _write_title([sys.executable, "-m", *sys.argv])
    if MEASURED in environ:
        measured.start()
    if ARMED in environ:
        ctypes.CDLL(None).inject_begin()
    command()


def _write_title(words: list[str]) -> None:
    """Write a command's arguments where the kernel reads those of this process (proc(5))."""
    begin, end = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:47])
    title = b"".join(os.fsencode(word) + b"\0" for word in words)
    ctypes.memmove(begin, title[: end - begin - 1].ljust(end - begin, b"\0"), end - begin)


def _serve_after_a_boot(file: str, fd: int) -> None:
    from stacker.linux import mountapi

    control = os.dup2(fd, 3)
    os.closerange(4, 1 << 16)
    assert in_own_namespace()
    mountapi.mount(file, BOOT_ID, None, mountapi.MS_BIND)
    serve(socket.socket(fileno=control))


def preload() -> None:
    """Import all of stacker, so that no command spends time on it."""
    import stacker

    for module in pkgutil.walk_packages(stacker.__path__, "stacker."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in _IMPORTED_LATER:
        importlib.import_module(name)
    measured.prepare()
    gc.collect()
    gc.freeze()  # the collector leaves these objects alone, so children share their pages


def main() -> None:
    """Serve the owner of the socket whose descriptor is the first argument."""
    preload()
    control = socket.socket(fileno=int(sys.argv[1]))
    control.send(b".")
    serve(control)


if __name__ == "__main__":
    main()
