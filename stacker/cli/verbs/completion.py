"""``stacker completion``."""

from __future__ import annotations

from argparse import REMAINDER, SUPPRESS
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.cli.output import print_line
from stacker.cli.shared_data import SCRIPTS, completion_script

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator, Sequence

    from stacker.cli.session import Session
    from stacker.store.store import Store

DESCRIPTION = """\
Print the script that makes a shell complete the words of stacker's commands: verbs, options, files,
the images and mounts of the store, and the tags of a repository in a registry.  Write it to one
of these files:

  bash  /etc/bash_completion.d/stacker
  zsh   /usr/local/share/zsh/site-functions/_stacker
  fish  ~/.config/fish/completions/stacker.fish

A new shell reads the file at its start.
"""
EXAMPLES = """\
  stacker completion bash   print the script for bash
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments; only the scripts use ``--list OBJECTS WORD...``."""
    parser.add_argument("shell", metavar="SHELL", choices=tuple(SCRIPTS), help="bash, zsh or fish")
    parser.add_argument("--list", nargs=REMAINDER, help=SUPPRESS)


def run(args: Namespace, session: Session) -> None:
    """Print the script, or the names of objects in the store that a command line means."""
    if not args.list:
        print_line(completion_script(args.shell).read_text(encoding="utf-8").rstrip("\n"))
        return
    objects, *words = args.list
    session = _with_store_of(words, session)
    store = session.store(create=False)
    for name in _images(store) if objects == "images" else _mounts(store):
        print_line(name)


def _with_store_of(words: Sequence[str], session: Session) -> Session:
    """Return the session with the store that the words of an unfinished command name."""
    for word, value in zip(words, [*words[1:], ""], strict=False):
        if word == "--store" and value:
            session = replace(session, root=Path(value))
        elif word.startswith("--store="):
            session = replace(session, root=Path(word.partition("=")[2]))
    return session


def _images(store: Store) -> Iterator[str]:
    for image in store.images.all():
        yield from image.names or (image.id.short,)


def _mounts(store: Store) -> Iterator[str]:
    from stacker.mount.table import Table

    for entry in Table(store.mounts).entries():
        if entry.state in {"mounted", "incomplete"}:
            yield str(entry.record.target)
