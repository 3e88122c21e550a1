"""The options that change the process and the container of an image, as podman names them.

The arguments of a verb come in; `Overrides` and `Settings` go out.  A verb that starts a process
and one that describes it have the same options.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.errors import NotFoundError, UsageError
from stacker.image.document import quoted
from stacker.runtime.mounts import name_service, parse_volume, tmpfs
from stacker.runtime.process import Overrides, Rlimit, environment_of
from stacker.runtime.spec import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from stacker.runtime.mounts import Mount

NETWORKS = ("none", "host")
_UNLIMITED = (1 << 64) - 1  # RLIM_INFINITY, sys/resource.h


def add_container(parser: argparse.ArgumentParser) -> None:
    """Add the options; `overrides_of` and `settings_of` read them."""
    _add_process(parser)
    add = parser.add_argument
    add(
        "-v",
        "--volume",
        metavar="SRC:DST[:ro]",
        dest="volumes",
        action="append",
        default=[],
        help="bind mount a file or directory of the host; repeatable",
    )
    add(
        "--tmpfs",
        metavar="PATH[:OPTION,...]",
        action="append",
        default=[],
        help="mount a tmpfs, with options such as size=64m, mode=1777, ro or noexec; repeatable",
    )
    add("--read-only", action="store_true", help="refuse writes to the root filesystem")
    add("--hostname", metavar="NAME", help="host name (default: the short image ID)")
    add(
        "--network",
        choices=NETWORKS,
        default="none",
        help="`none`: a network of its own with a loopback device; `host`: the network of the host,"
        " with its /etc/resolv.conf and /etc/hosts (default: %(default)s)",
    )


def _add_environment(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "-e",
        "--env",
        metavar="NAME[=VALUE]",
        action="append",
        default=[],
        help="set a variable; without a value, copy it from the caller; repeatable",
    )
    add(
        "--env-file",
        metavar="FILE",
        dest="env_files",
        action="append",
        default=[],
        help="set the variables in FILE, one NAME[=VALUE] a line; lines with # are comments;"
        " --env overrides it; repeatable",
    )


def _add_process(parser: argparse.ArgumentParser) -> None:
    _add_environment(parser)
    add = parser.add_argument
    add("-w", "--workdir", metavar="DIR", help="working directory, absolute in the image")
    add(
        "-u",
        "--user",
        metavar="USER",
        help="NAME, UID, NAME:GROUP or UID:GID; stacker looks up names in the image",
    )
    add(
        "--entrypoint",
        metavar="PROGRAM",
        help="replace the entrypoint, and omit the command of the image; a JSON list has arguments,"
        " too; empty for no entrypoint",
    )
    add("-t", "--tty", action="store_true", help="give the process a terminal")
    add(
        "--ulimit",
        metavar="NAME=SOFT[:HARD]",
        dest="ulimits",
        action="append",
        default=[],
        type=parse_ulimit,
        help="set a resource limit, such as nofile=1024:4096; -1 is unlimited; without"
        " CAP_SYS_RESOURCE, stacker lowers it to the hard limit of the caller; repeatable",
    )
    add(
        "--allow-new-privileges",
        action="store_true",
        help="let set-user-ID programs and file capabilities of the image take effect",
    )


def add_command(parser: argparse.ArgumentParser) -> None:
    """Add the command, which is everything after the other arguments."""
    command = parser.add_argument(
        "command",
        metavar="CMD",
        nargs=argparse.REMAINDER,
        help="program and arguments, which replace the command of the image; options of stacker"
        " precede the arguments",
    )
    command.required = False  # Python 3.11 requires it


def overrides_of(args: argparse.Namespace, environ: Mapping[str, str]) -> Overrides:
    """Return the changes of the process.

    :param environ: the environment of the caller.
    :raises UsageError: an option is malformed.
    :raises NotFoundError: there is no such file of ``--env-file``.
    """
    words = [*_file_entries(args.env_files), *args.env]
    copied = (f"{word}={environ[word]}" for word in words if "=" not in word and word in environ)
    given = [word for word in words if "=" in word]
    if bad := [word for word in words if word.startswith("=") or not word]:
        raise UsageError(f"malformed variable: got {quoted(bad[0])}, want NAME or NAME=VALUE")
    return Overrides(
        entrypoint=None if args.entrypoint is None else _entrypoint(args.entrypoint),
        command=tuple(args.command),
        env={**environment_of(copied), **environment_of(given)},
        working_dir=args.workdir,
        user=args.user,
        terminal=args.tty,
        new_privileges=args.allow_new_privileges,
        rlimits=tuple(args.ulimits),
    )


def settings_of(args: argparse.Namespace) -> Settings:
    """Return the settings of the container.

    :raises UsageError: an option is malformed.
    :raises NotFoundError: the host lacks the source of a volume.
    """
    volumes = tuple(map(_volume, args.volumes))
    names = name_service(volumes) if args.network == "host" else ()
    return Settings(
        hostname=args.hostname or "",
        network=args.network,
        read_only=args.read_only,
        mounts=(*names, *map(tmpfs, args.tmpfs), *volumes),
    )


def parse_ulimit(text: str) -> Rlimit:
    """Return the limit that ``NAME=SOFT[:HARD]`` describes.

    :raises ArgumentTypeError: the text is malformed.
    """
    name, _, values = text.partition("=")
    soft, colon, hard = values.partition(":")
    numbers = [_limit(each) for each in ((soft, hard) if colon else (soft, soft))]
    if not name or None in numbers:
        raise argparse.ArgumentTypeError(f"got {text!r}, want NAME=SOFT[:HARD]")
    low, high = (number or 0 for number in numbers)
    return Rlimit(name.upper().removeprefix("RLIMIT_"), low, high)


def _limit(text: str) -> int | None:
    if text in {"-1", "unlimited"}:
        return _UNLIMITED
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _file_entries(names: list[str]) -> Iterator[str]:
    for name in names:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise NotFoundError(f"no such file: --env-file {name}") from None
        except UnicodeDecodeError:
            raise UsageError(f"malformed --env-file: {name}: got other bytes than UTF-8") from None
        lines = (line.lstrip() for line in text.split("\n"))
        yield from (line.removesuffix("\r") for line in lines if line and not line.startswith("#"))


def _entrypoint(text: str) -> tuple[str, ...]:
    if not text.startswith("["):
        return (text,) if text else ()
    try:
        words = json.loads(text)
    except ValueError:
        words = None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UsageError(f"malformed --entrypoint: got {quoted(text)}, want a JSON list of strings")
    return tuple(words)


def _volume(text: str) -> Mount:
    source, colon, rest = text.partition(":")
    absolute = str(Path(source).absolute()) if source.startswith(("/", ".")) else source
    found = parse_volume(absolute + colon + rest)
    if not Path(found.source).exists():
        raise NotFoundError(f"no such file or directory: --volume {found.source}")
    return found
