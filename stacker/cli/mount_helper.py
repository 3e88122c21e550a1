"""``mount.stacker``, which mount(8) runs for the filesystem type ``stacker``, also from /etc/fstab.

The arguments of mount(8) come in; the words of ``stacker mount`` go out, and `main` runs them.
Source: mount(8), "External helpers"; fstab(5).
"""

from __future__ import annotations

import os
import sys
from typing import Final, NoReturn

from stacker.cli import main as run
from stacker.cli.exit import open_standard_streams
from stacker.errors import UsageError

_USAGE, _FAILURE = 1, 32  # exit codes of mount(8)
_SWITCHES: Final = {"rw", "nosuid", "nodev", "noexec"}
_VALUES: Final = {"driver", "upper", "pull", "verify"}
_GLOBAL: Final = {"store", "additional-store"}
_IGNORED: Final = {
    *("ro", "defaults", "suid", "dev", "exec", "auto", "noauto", "nofail", "_netdev"),
    *("user", "nouser", "users", "owner", "group", "relatime", "sync", "async"),
}
_WITH_VALUE: Final = {"-N", "-t"}


def main() -> NoReturn:
    """Mount as the arguments of this process say, and end the process with an exit code."""
    open_standard_streams()
    umask = os.umask(0o077)
    try:
        words = mount_words(sys.argv[1:])
    except UsageError as error:
        print(f"mount.stacker: error: {error.message}", file=sys.stderr)
        os._exit(_USAGE)
    if words is None:
        os._exit(0)
    if "--verbose" not in words:  # mount(8) prints nothing
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    code = run(words, umask=umask)
    sys.stderr.flush()
    os._exit(_FAILURE if code else 0)


def mount_words(arguments: list[str]) -> list[str] | None:
    """Return the words of ``stacker mount`` for the arguments of a helper of mount(8).

    :param arguments: ``IMAGE TARGET [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]``.
    :returns: ``None`` with ``-f``, which asks for no mount.
    :raises UsageError: IMAGE or TARGET is missing, or an option is unknown.
    """
    names: list[str] = []
    flags, options = "", ""
    left = arguments[::-1]
    while left:
        word = left.pop()
        if word == "-o" or word in _WITH_VALUE:
            value = left.pop() if left else ""
            options += f",{value}" if word == "-o" else ""
        elif word.startswith("-") and len(word) > 1:
            flags += word[1:]
        else:
            names.append(word)
    if len(names) != 2:
        raise UsageError(f"wrong arguments: got {' '.join(arguments)!r}, want IMAGE TARGET")
    if "f" in flags:
        return None
    general, own = _split(options, sloppy="s" in flags)
    quiet = "--verbose" if "v" in flags else "--quiet"
    return [*general, "mount", quiet, *own, "--", *names]


def _split(options: str, *, sloppy: bool) -> tuple[list[str], list[str]]:
    """Return the global options, and those of the verb."""
    general, own = [], []
    for option in filter(None, options.split(",")):
        name, equals, value = option.partition("=")
        if equals and name in _GLOBAL:
            general += [f"--{name}", value]
        elif equals and name in _VALUES:
            own += [f"--{name}", value]
        elif option in _SWITCHES:
            own.append(f"--{option}")
        elif not (option in _IGNORED or name.startswith(("x-", "comment")) or sloppy):
            raise UsageError(f"unknown mount option: {option}")
    return general, own
