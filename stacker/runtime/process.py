"""The process of a container, as a value: what execve(2) and the calls before it need.

The execution part of an image config, the changes of a caller and a `Root` come in; a `Process`
goes out.  This module starts nothing, and must not read the environment.

Source: image-spec conversion.md, runtime-spec config.md ("Process").
"""

from __future__ import annotations

import posixpath
import resource
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from stacker.errors import IntegrityError, UsageError
from stacker.image.document import quoted
from stacker.linux.namespaces import CAPABILITIES as NAMES
from stacker.linux.process import CAP_SYS_RESOURCE, bounding_set, has_capability
from stacker.runtime.root import MOUNT_POINTS
from stacker.runtime.user import User, find_user

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from stacker.image.config import Execution
    from stacker.runtime.root import Root

CAPABILITIES: Final = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
"""The default capabilities of podman (containers.conf(5), ``default_capabilities``)."""
DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
STRING_LIMIT: Final = 128 * 1024
"""Bytes of one argument or variable with its NUL (MAX_ARG_STRLEN, linux/binfmts.h)."""
TOTAL_LIMIT: Final = 2 * 1024 * 1024
"""Bytes of all arguments and variables and their pointers (execve(2), with an 8 MiB stack)."""
_POINTER = 8


@dataclass(frozen=True, slots=True)
class Rlimit:
    """A resource limit of the process (setrlimit(2)).

    :param name: without ``RLIMIT_``, in capitals, such as ``NOFILE``.
    """

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Overrides:
    """What a caller changes in an image's config.

    :param entrypoint: replaces the image's, and omits the image's command; empty for none.
    :param command: replaces the image's command; empty for the image's.
    :param env: variables by name; they replace the image's.
    :param working_dir: an absolute path in the root filesystem; ``None`` for the image's.
    :param user: as for `find_user`; ``None`` for the image's.
    :param terminal: give the process a terminal.
    :param new_privileges: let set-user-ID programs and file capabilities take effect.
    :param rlimits: resource limits, lowered to the hard limits of this process if it may not
        raise them; all others are those of the runtime.
    """

    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] = ()
    env: Mapping[str, str] | None = None
    working_dir: str | None = None
    user: str | None = None
    terminal: bool = False
    new_privileges: bool = False
    rlimits: tuple[Rlimit, ...] = ()


@dataclass(frozen=True, slots=True)
class Process:
    """A process to start.

    :param args: the program and its arguments; without a slash, the program is searched in the
        ``PATH`` of `env`.
    :param env: ``NAME=VALUE`` entries, each name once.
    :param cwd: the working directory, absolute in the root filesystem.
    :param capabilities: the bounding set.  A process of UID 0 also has them as permitted and
        effective, another one has none.
    """

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str = "/"
    user: User = field(default_factory=User)
    terminal: bool = False
    no_new_privileges: bool = True
    capabilities: tuple[str, ...] = CAPABILITIES
    rlimits: tuple[Rlimit, ...] = ()

    @property
    def effective(self) -> tuple[str, ...]:
        """The permitted and effective capabilities."""
        return self.capabilities if self.user.uid == 0 else ()


def make_process(execution: Execution, overrides: Overrides, root: Root) -> Process:
    """Return the process that an image config and a caller describe.

    Entries of `env` that are not ``NAME=VALUE`` are omitted.  A value may
    contain newlines.  ``PATH`` and ``HOME`` have defaults, and ``TERM`` with a terminal.

    :raises UsageError: there is no command, a path is relative, or a string has a NUL.
    :raises NotFoundError: the root filesystem lacks the user or the group.
    :raises IntegrityError: the config is unsafe or too large for execve(2).
    """
    named = overrides.user
    user = find_user(execution.user if named is None else named, root)
    made = Process(
        args=_arguments(execution, overrides),
        env=_environment(execution.env, overrides, user),
        cwd=_working_dir(execution, overrides, root),
        user=user,
        terminal=overrides.terminal,
        no_new_privileges=not overrides.new_privileges,
        capabilities=_capabilities(),
        rlimits=tuple(map(_allowed, overrides.rlimits)),
    )
    _require_fit((*made.args, *made.env, made.cwd))
    return made


def environment_of(entries: Iterable[str]) -> dict[str, str]:
    """Return ``NAME=VALUE`` entries by name; the last entry of a name counts.

    Entries without ``=`` or without a name are omitted.
    """
    pairs = (entry.partition("=") for entry in entries)
    return {name: value for name, equals, value in pairs if name and equals}


def _arguments(execution: Execution, overrides: Overrides) -> tuple[str, ...]:
    entrypoint, command = overrides.entrypoint, overrides.command
    if entrypoint is None:
        entrypoint, command = execution.entrypoint, command or execution.cmd
    args = (*entrypoint, *command)
    if not args or not args[0]:
        raise UsageError(
            "no command: the image has neither an entrypoint nor a command",
            hint="append a command, as in IMAGE /bin/sh",
        )
    return args


def _environment(entries: Iterable[str], overrides: Overrides, user: User) -> tuple[str, ...]:
    found = {**environment_of(entries), **(overrides.env or {})}
    found.setdefault("PATH", DEFAULT_PATH)
    found.setdefault("HOME", user.home)
    if overrides.terminal:
        found.setdefault("TERM", "xterm")
    return tuple(f"{name}={value}" for name, value in found.items())


def _working_dir(execution: Execution, overrides: Overrides, root: Root) -> str:
    """Return the working directory, which may lead through symlinks, but not to a mount point.

    A directory below /proc can be a descriptor that the runtime has open on the host
    (CVE-2024-21626).
    """
    cwd = overrides.working_dir
    if cwd is None:
        cwd = posixpath.join("/", execution.working_dir)
    elif not cwd.startswith("/"):
        raise UsageError(f"working directory is relative: got {quoted(cwd)}, want an absolute path")
    resolved = root.resolve(cwd)
    if any(resolved == each or resolved.startswith(f"{each}/") for each in MOUNT_POINTS):
        raise IntegrityError(
            f"unsafe working directory: {quoted(cwd)}: it leads to {quoted(resolved)},"
            f" want a directory outside {', '.join(MOUNT_POINTS)}",
            hint="name another directory with --workdir",
        )
    return cwd


def _capabilities() -> tuple[str, ...]:
    """Return the default capabilities that this process can pass on.

    A runtime fails if it cannot set one, as in a container of another program.
    """
    possible = bounding_set()
    return tuple(name for name in CAPABILITIES if possible >> NAMES.index(name) & 1)


def _allowed(limit: Rlimit) -> Rlimit:
    """Return a limit that this process may set (setrlimit(2))."""
    number = getattr(resource, f"RLIMIT_{limit.name}", None)
    if number is None:
        raise UsageError(f"unknown resource limit: got {quoted(limit.name)}, want such as NOFILE")
    hard = resource.getrlimit(number)[1]
    if hard == resource.RLIM_INFINITY or has_capability(CAP_SYS_RESOURCE):
        return limit
    return Rlimit(limit.name, min(limit.soft, hard), min(limit.hard, hard))


def _require_fit(strings: tuple[str, ...]) -> None:
    try:
        sizes = [len(text.encode()) + 1 for text in strings]
    except UnicodeEncodeError:
        raise UsageError("malformed process: got an argument that is not UTF-8") from None
    if any("\0" in text for text in strings):
        raise UsageError("malformed process: got an argument or variable with a NUL, want none")
    if max(sizes) > STRING_LIMIT:
        raise IntegrityError(
            f"argument or variable too long: got {max(sizes)} bytes, want at most {STRING_LIMIT}"
        )
    total = sum(sizes) + _POINTER * len(sizes)
    if total > TOTAL_LIMIT:
        raise IntegrityError(
            f"too many arguments and variables: got {total} bytes, want at most {TOTAL_LIMIT}"
        )
