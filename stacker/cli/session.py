"""What a verb is told about the person who called it, and how it talks to them.

In come the global options and the environment, out go the store and lines on stderr.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.cli.text import printable
from stacker.errors import UsageError
from stacker.linux import process

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping

    from stacker.store.store import Store

_SYSTEM_STORE = Path("/var/lib/stacker")
_TEMPORARY = Path("/var/tmp")  # noqa: S108 - mkstemp(3) creates the files


@dataclass(frozen=True, slots=True)
class Session:
    """One command's surroundings.

    :param temporary: the directory for temporary files of verbs that do not use the store.
    :param verbosity: -1 for quiet, 0, 1 for verbose.
    :param json: print documents instead of text.
    :param dumb: the terminal cannot draw.
    """

    root: Path
    verbosity: int = 0
    json: bool = False
    dumb: bool = False
    temporary: Path = _TEMPORARY

    @classmethod
    def of(cls, args: Namespace, environ: Mapping[str, str]) -> Session:
        """Put options and environment together."""
        named = getattr(args, "store", None)
        return cls(
            root=_root(named, environ),
            verbosity=getattr(args, "verbosity", 0),
            json=getattr(args, "json", False),
            dumb=environ.get("TERM", "dumb") == "dumb",
            temporary=Path(environ.get("TMPDIR") or _TEMPORARY),
        )

    def store(self) -> Store:
        """Open the store, or make it."""
        from stacker.store.store import Store

        return Store.open(self.root)

    @property
    def draws(self) -> bool:
        """Whether bars may be drawn on stderr."""
        return not (self.verbosity or self.json or self.dumb) and sys.stderr.isatty()

    def say(self, text: str) -> None:
        """Tell the person something, unless they asked for quiet."""
        if self.verbosity >= 0:
            print(printable(f"stacker: {text}"), file=sys.stderr)

    def detail(self, text: str) -> None:
        """Tell a person who asked for more."""
        if self.verbosity > 0:
            print(printable(text), file=sys.stderr)


def _root(named: str | None, environ: Mapping[str, str]) -> Path:
    if named == "":
        raise UsageError("no store: got an empty --store, want a directory")
    if place := named or environ.get("STACKER_STORE"):
        return Path(place)
    if _is_system_root():
        return _SYSTEM_STORE
    data = environ.get("XDG_DATA_HOME", "")
    # The XDG specification has relative paths ignored.
    base = Path(data) if data.startswith("/") else _home() / ".local/share"
    return base / "stacker"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        raise UsageError(
            "no store: this user has no home directory", hint="name one with --store"
        ) from None


def _is_system_root() -> bool:
    """Say whether we are root where /var/lib is root's.

    Who became root by ``unshare --map-root-user`` is not, and keeps the store they had before.
    """
    if os.geteuid() != 0:
        return False
    return process.in_initial_user_namespace() or os.access(_SYSTEM_STORE.parent, os.W_OK)
