"""Commands of a documentation page, and a private machine that runs them.

A page shows commands in fenced blocks of the language ``console``: ``# `` begins a command, ``> ``
continues it, other lines are its output.  ``…`` in a line of output matches any characters; alone
in a line, it matches any lines.  ``<!-- not run: REASON -->`` before a block excludes it.
``<!-- tools: NAME… -->`` lists the programs that the page's commands need, and ``<!-- network -->``
keeps the machine's network.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.certificates import Authority
from tests.support.command import PATH, REPOSITORY
from tests.support.registries import PASSWORD, USER, with_passwords

_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]*) -->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_TOOLS = re.compile(r"^<!-- tools: (.*) -->$", re.MULTILINE)
HOSTS = {
    "registry.example": "127.0.0.1",
    "mirror.example": "127.0.0.2",
    "private.example": "127.0.0.3",
}
"""Registries that pages name; the last wants a password."""
PRIVATE_DIRECTORIES = ("/mnt", "/var/lib")
_MARK = "@@command"


@dataclass(frozen=True)
class Command:
    """A command of a page.

    :param line: the line of the page where it begins.
    :param expected: the lines of its output on the page.
    """

    line: int
    text: str
    expected: tuple[str, ...]

    def difference(self, output: str) -> str:
        """Return how `output` differs from the page, or an empty string."""
        pattern = "".join(map(_line_pattern, self.expected))
        if re.fullmatch(pattern, output):
            return ""
        wanted = "\n".join(self.expected)
        return f"line {self.line}: {self.text}\ngot:\n{output}\nwant:\n{wanted}"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `reason` says why its commands are not run."""

    line: int
    language: str
    reason: str | None
    lines: tuple[str, ...]

    def commands(self) -> list[Command]:
        """Return the commands of the block."""
        found: list[tuple[int, list[str], list[str]]] = []
        for number, line in enumerate(self.lines, self.line + 1):
            if line.startswith(("# ", "$ ")):
                found.append((number, [line[2:]], []))
            elif line.startswith("> ") or line == ">":
                found[-1][1].append(line[2:])
            else:
                found[-1][2].append(line)
        return [Command(line, "\n".join(text), tuple(out)) for line, text, out in found]


@dataclass(frozen=True)
class Page:
    """A page of the documentation."""

    path: Path

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    def blocks(self) -> list[Block]:
        """Return the fenced blocks of the page."""
        text = self.text
        return [
            Block(
                line=text.count("\n", 0, found.start("language")) + 1,
                language=found["language"],
                reason=found["reason"],
                lines=tuple(found["text"].splitlines()),
            )
            for found in _BLOCK.finditer(text)
        ]

    def commands(self) -> list[Command]:
        """Return the commands that a test runs."""
        blocks = [block for block in self.blocks() if block.language == "console"]
        return [each for block in blocks if block.reason is None for each in block.commands()]

    def tools(self) -> list[str]:
        """Return the programs that the page's commands need."""
        found = _TOOLS.search(self.text)
        return found[1].split() if found else []

    @property
    def needs_network(self) -> bool:
        """Return whether the page's commands use the machine's network."""
        return "<!-- network -->" in self.text


def _line_pattern(line: str) -> str:
    if line == "…":
        return r"(?:.*\n)*"
    return ".*".join(map(re.escape, line.split("…"))) + r"\n"


@dataclass
class Machine:
    """Runs the commands of a page in namespaces of their own: mounts, processes, network.

    ``/mnt``, ``/run`` and ``/var/lib`` are empty, ``/etc/containers`` and ``/etc/hosts`` are
    copies.  The hosts of :data:`HOSTS` are registries on loopback, whose CA is trusted unless the
    page installs it itself.

    :param root: an empty directory; the commands start in ``root/home``.
    """

    root: Path
    _registries: list[str] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.root / "home"

    def run(self, page: Page) -> Iterator[str]:
        """Run a page's commands; yield each difference from what the page says."""
        commands = page.commands()
        self._prepare(page)
        script = self.root / "page.sh"
        script.write_text(self._script(page))
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        unshare += [] if page.needs_network else ["--net"]
        done = subprocess.run(
            [*unshare, "--propagation=private", "bash", str(script)],
            cwd=self.home,
            env=self._environment(page),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=200,
            check=False,
        )
        yield from differences(commands, done.stdout)

    def _environment(self, page: Page) -> dict[str, str]:
        inherited = dict(os.environ) if page.needs_network else {}  # proxies, pip's settings
        path = os.pathsep.join([str(self.root / "bin"), os.environ["PATH"], "/usr/sbin", "/sbin"])
        own = {"PATH": path, "HOME": str(self.home), "LC_ALL": "C.UTF-8", "TERM": "dumb"}
        return {**inherited, **own}

    def _prepare(self, page: Page) -> None:
        self.home.mkdir()
        binaries = self.root / "bin"
        binaries.mkdir()
        for name, module in (("stacker", "stacker"), ("stacker-fuse", "stacker.cli.stacker_fuse")):
            program = binaries / name
            start = f'PYTHONPATH={PATH} exec {sys.executable} -m {module} "$@"'
            program.write_text(f"#!/bin/sh\n{start}\n")
            program.chmod(0o755)
        if page.needs_network:
            _copy_checkout(self.home / "stacker")
        if Path("/etc/containers").exists():
            shutil.copytree("/etc/containers", self.root / "containers")
        lines = [f"{address} {name}" for name, address in HOSTS.items()]
        own = Path("/etc/hosts").read_text() if page.needs_network else "127.0.0.1 localhost\n"
        (self.root / "hosts").write_text(own + "\n".join([*lines, ""]))
        self._registries = [name for name in HOSTS if f"{name}/" in page.text]
        if self._registries:
            self._prepare_registries(page)

    def _prepare_registries(self, page: Page) -> None:
        authority = Authority(self.root / "authority")
        names = ",".join(f"DNS:{name}" for name in HOSTS)
        certificate, key = authority.sign("host", names)
        shutil.copy(authority.certificate, self.home / "ca.crt")
        for name in self._registries:
            if "certs.d" not in page.text:
                trusted = self.home / ".config/containers/certs.d" / name
                trusted.mkdir(parents=True)
                shutil.copy(authority.certificate, trusted)
            tls = {"certificate": str(certificate), "key": str(key)}
            config = {
                "version": "0.1",
                "storage": {"filesystem": {"rootdirectory": str(self.root / name)}},
                "http": {"addr": f"{HOSTS[name]}:443", "secret": "for tests", "tls": tls},
                **({"auth": with_passwords(self.root)} if name == "private.example" else {}),
            }
            (self.root / f"{name}.json").write_text(json.dumps(config))  # JSON is YAML

    def _script(self, page: Page) -> str:
        lines = ["set -eu", *map("mount -t tmpfs tmpfs {}".format, PRIVATE_DIRECTORIES)]
        lines.append(f"mount --bind {self.root}/hosts /etc/hosts")
        if (self.root / "containers").exists():
            lines.append(f"mount --bind {self.root}/containers /etc/containers")
        if not page.needs_network:  # resolv.conf may be a link into /run
            lines += ["mount -t tmpfs tmpfs /run", "mkdir /run/lock", "busybox ip link set lo up"]
            lines += self._images()
        lines.append("set +eu")
        for number, command in enumerate(page.commands()):
            lines += [f"echo '{_MARK} {number}'", command.text, "_status=$?"]
            lines.append(f"echo '{_MARK} {number} ends' $_status; [ $_status = 0 ] || exit")
        return "\n".join(lines) + "\n"

    def _images(self) -> Iterator[str]:
        """Yield the commands that build the image ``app:1.0`` and put it where pages expect it."""
        options = f"--authfile {self.root}/auth.json --cert-dir {self.root}/authority"
        demo_image = f"{sys.executable} {REPOSITORY}/scripts/demo-image"
        yield f'{demo_image} "$(command -v busybox)" image app:1.0'
        yield "stacker pull --quiet oci:image:app:1.0"
        for name in self._registries:
            yield f"docker-registry serve {self.root}/{name}.json >{self.root}/{name}.log 2>&1 &"
            yield f"until (: </dev/tcp/{HOSTS[name]}/443) 2>/dev/null; do sleep 0.05; done"
            yield f"echo '{PASSWORD}' | stacker login {options} -u {USER} --password-stdin {name}"
            yield f"stacker push --quiet {options} app:1.0 docker://{name}/team/app:1.0"
        if self._registries:
            yield f'{demo_image} "$(command -v busybox)" arm64 app:1.0-arm64 arm64'
            destination = f"docker://{self._registries[0]}/team/app:1.0-arm64"
            yield f"stacker copy --quiet {options} oci:arm64:app:1.0-arm64 {destination}"


def _copy_checkout(target: Path) -> None:
    """Copy the files that an installation from the repository needs."""
    for name in ("stacker", "man", "completions", "scripts"):
        shutil.copytree(REPOSITORY / name, target / name)
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, target / name)


def differences(commands: Sequence[Command], output: str) -> Iterator[str]:
    """Yield each difference between a page's commands and what the script printed."""
    for number, command in enumerate(commands):
        mark = f"{_MARK} {number}"
        _, begun, rest = output.partition(f"{mark}\n")
        text, ended, rest = rest.partition(f"{mark} ends ")
        if not (begun and ended):
            yield f"line {command.line}: not run: {command.text}\n{output[-2000:]}"
            return
        status = rest.partition("\n")[0]
        if status != "0":
            yield f"line {command.line}: {command.text}\nended with {status}:\n{text}"
        elif difference := command.difference(text):
            yield difference
