"""The context of one command: its store, its verbosity and its messages.

`Session.of` takes the global options and the environment.  Verbs open the store and print messages
to stderr through it.  This module does not parse arguments and does not print results.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.cli.output import printable
from stacker.errors import UsageError, shell_word
from stacker.store.location import default_root, run_directory

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterable, Mapping, Sequence

    from stacker.api.config import Config
    from stacker.api.store import Store as LibraryStore
    from stacker.events import Event
    from stacker.image.digest import ImageID
    from stacker.store.store import Store

_DENIED = (os.strerror(errno.EPERM), os.strerror(errno.EACCES))
_MOST_FILES = 50_000  # that a search for another owner reads
_TEMPORARY = Path("/var/tmp")  # noqa: S108 - mkstemp(3) creates the files


@dataclass(frozen=True, slots=True)
class Session:
    """The context of one command.

    :param root: the store's directory.
    :param umask: the caller's umask, which new files outside of the store obey.
    :param temporary: directory for temporary files of verbs that do not use the store.
    :param verbosity: -1 for ``--quiet``, 1 for ``--verbose``, otherwise 0.
    :param json: print JSON documents instead of text.
    :param dumb: the terminal cannot draw progress bars.
    :param config: the values of the configuration files; ``None`` if there is no file.
    :param store_options: the words of ``--store`` and ``--additional-store``, if they are given.
    :param additional: the stores of ``--additional-store``.
    :param run: the directory for locks and mounts of a read-only store; ``None`` for the default.
    """

    root: Path
    verbosity: int = 0
    json: bool = False
    dumb: bool = False
    temporary: Path = _TEMPORARY
    umask: int = 0o022
    config: Config | None = None
    store_options: tuple[str, ...] = ()
    additional: tuple[Path, ...] = ()
    run: Path | None = None

    @classmethod
    def of(
        cls,
        args: Namespace,
        environ: Mapping[str, str],
        umask: int = 0o022,
        config: Config | None = None,
    ) -> Session:
        """Return the session that options, environment variables and configuration describe.

        :param umask: the caller's umask.
        :param config: the values of the configuration files, if there are any.
        :raises UsageError: they name no directory for the store.
        """
        named = getattr(args, "store", None)
        return cls(
            root=_root(named, environ, config),
            verbosity=getattr(args, "verbosity", 0),
            json=getattr(args, "json", False),
            dumb=environ.get("TERM", "dumb") == "dumb",
            temporary=Path(environ.get("TMPDIR") or _TEMPORARY),
            umask=umask,
            config=config,
            store_options=_store_options(args),
            additional=_additional(args, config),
            run=run_directory(environ),
        )

    def with_store(self, text: str) -> str:
        """Return a text whose commands repeat the options of the store, so they can be pasted.

        :param text: a hint or message; a command starts the text, or follows a backtick or ``&&``.
        """
        if not self.store_options:
            return text
        import re  # only hints need it

        from stacker.cli.verbs import SUMMARIES, WITHOUT_STORE

        verbs = "|".join(verb for verb in SUMMARIES if verb not in WITHOUT_STORE)
        words = f"stacker {' '.join(map(shell_word, self.store_options))} "
        pattern = rf"(^|`|&& )stacker (?=(?:{verbs})\b)"
        return re.sub(pattern, lambda found: found[1] + words, text)

    def ownership_hint(self, error: Exception) -> str | None:
        """Return how to use a store that was made under another ID map.

        :param error: the error of a command.
        :returns: ``None`` if another cause is likely.
        """
        denied = isinstance(error, PermissionError) or str(error).endswith(_DENIED)
        if not denied or not (user := os.geteuid()):  # root needs another privilege
            return None
        found = _foreign_file(self.root, user)
        if found is None:
            return None
        path, owner = found
        return (
            f"user {owner} owns {path}; if the store was made in a user namespace, run the command "
            "in that namespace, for example `podman unshare stacker`"
        )

    def open(self, args: Namespace | None = None, *, create: bool = True) -> LibraryStore:
        """Open the store as the library does.

        :param args: the options for registries and the limits; ``None`` for the defaults.
        :param create: create a missing store; queries read it as an empty one instead, and need
            no registry.
        """
        from stacker.api.store import Store

        if not create:
            return Store.open(
                self.root,
                create=False,
                additional_stores=self.additional,
                run_directory=self.run,
                on_damage=self.warn,
            )
        from stacker.cli.registry_options import limits_or_configured, registry_options

        return Store.open(
            self.root,
            registries=registry_options(args, os.environ),
            additional_stores=self.additional,
            limits=limits_or_configured(args, self.config),
            run_directory=self.run,
            on_damage=self.warn,
        )

    def notice(self, event: Event) -> None:
        """Print what a user must know of an event: that a layer was unpacked again."""
        from stacker.events import LayerRestored

        if isinstance(event, LayerRestored):
            self.say(f"restored layer {event.diff_id} from {event.origin}")

    def store(self, *, create: bool = True) -> Store:
        """Open the directory of the store.

        :param create: create a missing store; queries read it as an empty one instead.
        """
        from stacker.store.store import Store

        return Store.open(
            self.root,
            create=create,
            run=self.run,
            additional=self.additional,
            report=self.warn,
        )

    @property
    def draws(self) -> bool:
        """Whether progress bars may be drawn on stderr."""
        return not (self.verbosity or self.json or self.dumb) and sys.stderr.isatty()

    def warn(self, text: str) -> None:
        """Print a warning to stderr, unless ``--quiet`` is given."""
        self.say(f"warning: {text}")

    def warn_rewritten(self, paths: Iterable[Path]) -> None:
        """Print a warning for each damaged file of checksums that a verification wrote again."""
        for path in paths:
            self.warn(f"damaged: {path}: stacker wrote it again")

    def say(self, text: str) -> None:
        """Print a message to stderr, unless ``--quiet`` is given."""
        if self.verbosity >= 0:
            print(printable(f"stacker: {text}"), file=sys.stderr)

    def say_moved(self, moved: Sequence[tuple[str, ImageID]], image_id: ImageID) -> None:
        """Say which names moved to an image, each with the image that had it before."""
        for name, previous in moved:
            self.say(f"{name} moved from image {previous.short} to {image_id.short}")

    def detail(self, text: str) -> None:
        """Print a message to stderr if ``--verbose`` is given."""
        if self.verbosity > 0:
            print(printable(text), file=sys.stderr)


def _foreign_file(root: Path, user: int) -> tuple[str, int] | None:
    """Return a file of layers that another user owns, and this user; ``None`` without one."""
    seen = 0
    for directory in ("layers", "chains", "staging"):
        for parent, directories, files in os.walk(root / directory):
            for name in (*directories, *files):
                path, seen = os.path.join(parent, name), seen + 1
                with suppress(OSError):
                    if (owner := os.lstat(path).st_uid) != user:
                        return path, owner
                if seen > _MOST_FILES:
                    return None
    return None


def _root(named: str | None, environ: Mapping[str, str], config: Config | None) -> Path:
    if named == "":
        raise UsageError("no store: got an empty --store, want a directory")
    if directory := named or environ.get("STACKER_STORE"):
        return Path(directory)
    if config is not None and config.store is not None:
        return config.store
    return default_root(environ)


def _additional(args: Namespace, config: Config | None) -> tuple[Path, ...]:
    named = getattr(args, "additional_store", None)
    if named is None:
        return () if config is None else config.additional_stores or ()
    return tuple(map(Path, named))


def _store_options(args: Namespace) -> tuple[str, ...]:
    named = getattr(args, "store", None)
    words = () if named is None else ("--store", named)
    others = getattr(args, "additional_store", None) or ()
    return (*words, *(word for each in others for word in ("--additional-store", each)))
