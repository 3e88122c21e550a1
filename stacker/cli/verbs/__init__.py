"""The verbs of the command line, one module each.

`SUMMARIES` lists the verbs without importing them; `load` imports the module of one verb.  A verb
translates arguments to one call of the library and prints the result.  pyproject.toml lists the
verbs that call `stacker.operations` instead: those of mounts, which must start fast, and those that
the library lacks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session

SUMMARIES = {
    "pull": "Pull an image into the store",
    "mount": "Mount the root filesystem of an image",
    "run": "Run a process in the root filesystem of an image",
    "umount": "Unmount a target, and discard its --rw writes",
    "mounts": "List mounts, and clean up after a crash",
    "bundle": "Write an OCI runtime bundle for runc or crun",
    "unpack": "Unpack the root filesystem of an image into a directory",
    "export": "Export the root filesystem of an image as a tar or a disk image",
    "commit": "Create an image from the writes of a mount",
    "images": "List the images in the store",
    "inspect": "Show the names, platform and configuration of an image",
    "layers": "List the layers of an image",
    "history": "Show the history of an image",
    "push": "Push an image to a registry, a layout or an archive",
    "copy": "Copy an image between registries, layouts and archives",
    "index": "Manage indexes, which list images for several platforms",
    "tags": "List the tags of a repository in a registry",
    "login": "Log in to a registry",
    "logout": "Log out of a registry",
    "verify": "Verify images and their layers against their digests",
    "repair": "Replace the damaged layers of images",
    "convert": "Store the layers of an image in another form",
    "gc": "Remove objects that no image, mount or running command uses",
    "tag": "Give an image more names",
    "untag": "Remove names, and keep the images",
    "rm": "Remove names and images, and the layers that no other image uses",
    "df": "Show the disk usage of the store",
    "info": "Show what this machine and the store's filesystem can do",
    "snapshotter": "Serve containerd as its snapshotter and differ",
    "help": "Show the man page of a verb",
    "completion": "Print a completion script for a shell",
    "bench": "Measure the speed of a pull, stage by stage",
}
"""The summary of every verb, in the order of ``--help``."""
FAILURES = {"run": 125}
"""The exit code of every failure, for verbs that end with the exit code of another program."""
WITHOUT_STORE = frozenset({"copy", "tags", "login", "logout", "help"})
"""The verbs that do not use the store."""


class Verb(Protocol):
    """The interface of a verb's module.

    Its help and its man page contain ``DESCRIPTION`` and ``EXAMPLES``.
    """

    DESCRIPTION: str
    EXAMPLES: str

    def configure(self, parser: ArgumentParser) -> None:
        """Add the verb's arguments."""

    def run(self, args: Namespace, session: Session) -> int | None:
        """Run the verb, and return the exit code; ``None`` for 0."""


def load(name: str) -> Verb:
    """Import and return the module of a verb.

    :param name: a key of `SUMMARIES`.
    """
    from importlib import import_module

    return cast("Verb", import_module(f"stacker.cli.verbs.{name}"))
