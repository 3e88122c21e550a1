"""Run the real command in a process, and check what every command must do."""

from __future__ import annotations

import json
import os
import resource
import select
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

from tests.support.forkserver import REPOSITORY as REPOSITORY  # noqa: PLC0414 (other modules import it here)
from tests.support.forkserver import Server

PATIENCE = 60  # seconds until a wait for a process fails
SCHEMA = json.loads((REPOSITORY / "docs/reference/cli-output.schema.json").read_bytes())
PATH = os.pathsep.join([str(REPOSITORY), sysconfig.get_path("platlib")])
"""Where Python finds the package and what it needs, whichever interpreter it is."""
_OF_THE_INTERPRETER = ("PYTHON", "LD_", "LC_", "LANG", "COVERAGE_")
"""Environment variables that Python reads when it starts."""
_INHERITED = ("Umask", "Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "SigBlk", "SigIgn", "Cap")
_LIMITS = 16  # RLIM_NLIMITS of the kernel
_NAMESPACES = ("mnt", "net", "pid", "user", "uts", "ipc", "cgroup")


def conforming(document: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON document of the command, and check it against the documented schema."""
    jsonschema.validate(document, SCHEMA)
    return document


@dataclass(frozen=True)
class Result:
    """The output and the exit code of a command."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """The last line of stdout."""
        return self.out.splitlines()[-1]

    @property
    def document(self) -> dict[str, Any]:
        """Stdout as one JSON document."""
        document = json.loads(self.out)
        assert isinstance(document, dict)
        return document

    @property
    def last_document(self) -> dict[str, Any]:
        """The last JSON document of stdout, one for each line."""
        document = json.loads(self.last)
        assert isinstance(document, dict)
        return document

    @property
    def item(self) -> dict[str, Any]:
        """The item of the document."""
        item = self.document["item"]
        assert isinstance(item, dict)
        return item

    @property
    def items(self) -> list[dict[str, Any]]:
        """The items of the document."""
        items = self.document["items"]
        assert isinstance(items, list)
        return items


@dataclass(frozen=True)
class Stacker:
    """The command with one store.

    :param wrap: words before the command, such as those of unshare(1).
    :param python: the interpreter.
    :param environ: additional environment variables.
    """

    store: Path
    wrap: tuple[str, ...] = ()
    python: str = sys.executable
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """An environment without the variables that configure stacker."""
        removed = ("STACKER_", "XDG_", "NO_COLOR", "COLUMNS", "FORCE_COLOR", "TTY_")
        variables = {k: v for k, v in os.environ.items() if not k.startswith(removed)}
        return {**variables, "PYTHONPATH": PATH, "TERM": "xterm", **self.environ}

    def words(self, *words: str | Path) -> list[str]:
        """Return the complete command line."""
        store = ("--store", str(self.store))
        return [*self.wrap, self.python, "-m", "stacker", *store, *map(str, words)]

    def run(self, *words: str | Path, cwd: Path | None = None) -> Result:
        """Run the command, and return its result.

        The command is a fork of a process that has imported stacker, where such a fork differs in
        nothing else from a new process; with STACKER_TEST_COMMANDS=program it never is.
        """
        environ = self.environment
        if not self.wrap and self.python == sys.executable and _can_fork(environ):
            result = _run_forked(self.words(*words)[3:], environ, cwd)
        else:
            result = _run_program(self.words(*words), environ, cwd)
        assert "Traceback" not in result.err, result.err
        return result

    def start(self, *words: str | Path, text: str = "") -> subprocess.Popen[str]:
        """Start the command in a process group of its own, with text on stdin."""
        with tempfile.TemporaryFile() as given:
            os.pwrite(given.fileno(), text.encode(), 0)
            return subprocess.Popen(
                self.words(*words),
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self.environment,
                text=True,
                process_group=0,
            )

    def __call__(self, *words: str | Path, cwd: Path | None = None) -> Result:
        """Run a command that must succeed."""
        result = self.run(*words, cwd=cwd)
        assert result.code == 0, result.err
        return result

    def refused(self, code: int, *words: str | Path) -> str:
        """Run a command that must fail with one message, perhaps a hint, and no result.

        :param code: the expected exit code.
        :returns: stderr.
        """
        result = self.run(*words)
        assert result.code == code, (result.code, result.err)
        assert result.out == ""
        if "--json" in words:
            conforming(json.loads(result.err))
            return result.err
        first, *hint = result.err.splitlines()
        assert first.startswith("stacker: error: ")
        assert len(hint) <= 1
        assert all(line.startswith("hint: ") for line in hint)
        assert (first + "".join(hint)).isprintable()
        return result.err

    def assert_clean(self, *, images: int = 0, layers: int | None = None) -> None:
        """Check that the store contains no unfinished work.

        :param images: expected number of images in the list.
        :param layers: expected number of layers.
        """
        end = time.monotonic() + PATIENCE
        while os.listdir(
            self.store / "staging"
        ):  # the background flush of a pull locks names there
            assert time.monotonic() < end, os.listdir(self.store / "staging")
            time.sleep(0.01)
        assert os.listdir(self.store / "mounts") == []
        assert not [name for name in os.listdir(self.store) if name.startswith(".")]
        listed = self.store / "images.json"
        assert (
            len(json.loads(listed.read_bytes())["manifests"] if listed.exists() else []) == images
        )
        held = self.layers()
        for layer in held:
            assert {"diff", "layer.json", "skeleton.tar.zst"} <= set(os.listdir(layer))
        if layers is not None:
            assert len(held) == layers
        if not images:
            assert not [path for path in (self.store / "blobs").rglob("*") if path.is_file()]

    def layers(self) -> list[Path]:
        """Return the directories of the layers in the store."""
        return [path for path in (self.store / "layers").glob("sha256/*") if path.is_dir()]

    def names(self) -> dict[str, list[str]]:
        """Return the names of each image in the store."""
        return {item["image_id"]: item["names"] for item in self("images", "--json").items}


def _run_program(words: list[str], environ: dict[str, str], cwd: Path | None) -> Result:
    done = subprocess.run(
        words,
        check=False,
        capture_output=True,
        env=environ,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        encoding="utf-8",
        errors="surrogateescape",
    )
    return Result(done.returncode, done.stdout, done.stderr)


def _run_forked(words: list[str], environ: dict[str, str], cwd: Path | None) -> Result:
    pipes = [os.pipe() for _ in range(2)]
    given = os.open(os.devnull, os.O_RDONLY)
    ends = [given, *(writer for _, writer in pipes)]
    process = _server().start(words, environ, ends, cwd or Path.cwd())
    for fd in ends:
        os.close(fd)
    out, err = _read_all([reader for reader, _ in pipes])
    return Result(process.wait(), out, err)


def _read_all(fds: list[int]) -> list[str]:
    """Read pipes to their ends, and close them."""
    data = {fd: bytearray() for fd in fds}
    waiting = set(fds)
    while waiting:
        for fd in select.select(waiting, [], [])[0]:
            part = os.read(fd, 1 << 16)
            data[fd] += part
            if not part:
                waiting.remove(fd)
                os.close(fd)
    return [value.decode("utf-8", "surrogateescape") for value in data.values()]


@cache
def _server() -> Server:
    """Return the server that this process keeps until its end."""
    return Server.started(Stacker(Path("/nonexistent")).environment)


def _can_fork(environ: dict[str, str]) -> bool:
    """Tell whether a fork of the server has what a new process would inherit from this one."""
    if os.environ.get("STACKER_TEST_COMMANDS") == "program":
        return False
    same_environ = _read_at_start(environ) == _read_at_start(Stacker(Path()).environment)
    return same_environ and _inherited(os.getpid()) == _inherited(_server().process.pid)


def _read_at_start(environ: dict[str, str]) -> dict[str, str]:
    return {name: environ[name] for name in environ if name.startswith(_OF_THE_INTERPRETER)}


def _inherited(pid: int) -> list[object]:
    """Return the attributes of a process that its children inherit."""
    limits = [resource.prlimit(pid, number) for number in range(_LIMITS)]
    spaces = [os.readlink(f"/proc/{pid}/ns/{name}") for name in _NAMESPACES]
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return [*limits, *spaces, *(line for line in lines if line.startswith(_INHERITED))]


def at_home(tmp_path: Path, store: str = "store") -> Stacker:
    """Return the command with an empty home directory below `tmp_path`."""
    (tmp_path / "home").mkdir(exist_ok=True)
    environ = {"HOME": str(tmp_path / "home"), "REGISTRY_AUTH_FILE": "", "DOCKER_CONFIG": ""}
    return Stacker(tmp_path / store, environ={**environ, "XDG_RUNTIME_DIR": str(tmp_path)})


def wait_until(is_ready: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait for a condition while a process works.

    :param is_ready: the condition; its truth ends the wait.
    :raises AssertionError: the process ended first, or `PATIENCE` seconds passed.
    """
    end = time.monotonic() + PATIENCE
    while not is_ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        os.sched_yield()


@contextmanager
def started(command: Sequence[str], ready: bytes) -> Iterator[int]:
    """Run a command until the context ends; the command waits for the end of its stdin.

    :param ready: the first line of its output, after which the context begins.
    :returns: its process ID.
    """
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    with child, child.stdout, child.stdin:
        assert child.stdout.readline() == ready
        yield child.pid


def said(stacker: Stacker, code: int, *words: str | Path) -> tuple[str, str]:
    """Run a command that must fail; return message and hint, with `~` for the test's path."""
    text = stacker.refused(code, *words).replace(str(stacker.store.parent), "~")
    message, _, hint = text.removeprefix("stacker: error: ").rstrip("\n").partition("\nhint: ")
    return message, hint
