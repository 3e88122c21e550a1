"""The default directory of a user's store, that of its locks, and its configuration files.

Environment variables come in as a mapping; a path goes out.  This module must not read the
environment itself.
Source: XDG Base Directory Specification.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.errors import UsageError
from stacker.linux import process

if TYPE_CHECKING:
    from collections.abc import Mapping

_SYSTEM_STORE = Path("/var/lib/stacker")
_SYSTEM_CONFIG = Path("/etc/stacker/config.toml")


def default_root(environ: Mapping[str, str]) -> Path:
    """Return the directory of the store of this user.

    :param environ: ``XDG_DATA_HOME`` and ``HOME``; without them, the password database counts.
    :raises UsageError: the user has no home directory.
    """
    if is_system_root():
        return _SYSTEM_STORE
    return (absolute(environ, "XDG_DATA_HOME") or _home(environ) / ".local/share") / "stacker"


def run_directory(environ: Mapping[str, str]) -> Path | None:
    """Return the directory below which a read-only store of this user has its locks and mounts.

    :param environ: ``XDG_RUNTIME_DIR``.
    :returns: ``None`` for the default of `Store.open`.
    """
    parent = None if is_system_root() else absolute(environ, "XDG_RUNTIME_DIR")
    return None if parent is None else parent / "stacker"


def config_files(environ: Mapping[str, str]) -> list[Path]:
    """Return the existing configuration files, the system's first."""
    home = environ.get("HOME") or os.path.expanduser("~")
    base = absolute(environ, "XDG_CONFIG_HOME") or Path(home, ".config")
    paths = (_SYSTEM_CONFIG, base / "stacker/config.toml")
    return [path for path in paths if _is_readable(path)]


def _is_readable(path: Path) -> bool:
    """Return whether a file exists that this user can reach; HOME may be that of another user."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False
    return True


def absolute(environ: Mapping[str, str], name: str) -> Path | None:
    """Return the directory that a variable names; ``None`` if it names none.

    XDG Base Directory Specification: a relative path is invalid and must be ignored.
    """
    path = environ.get(name, "")
    return Path(path) if path.startswith("/") else None


def is_system_root() -> bool:
    """Return whether this process is root and /var/lib belongs to it.

    Root in ``unshare --map-root-user`` does not own it, and uses the store of the unprivileged user
    who started it.
    """
    if os.geteuid() != 0:
        return False
    return process.in_initial_user_namespace() or os.access(_SYSTEM_STORE.parent, os.W_OK)


def _home(environ: Mapping[str, str]) -> Path:
    if named := environ.get("HOME"):
        return Path(named)
    try:
        return Path(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        raise UsageError(
            "no store: this user has no home directory", hint="name a directory with --store"
        ) from None
