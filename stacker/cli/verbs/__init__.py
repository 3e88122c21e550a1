"""The verbs: a static table, and the door to the module of each.

A verb's module is imported when it is asked for and not before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session

SUMMARIES = {
    "pull": "bring an image into the store: verified, unpacked, ready to mount",
    "mount": "show an image's root filesystem at a directory",
    "umount": "take a mount away, with the writes it did not keep",
    "mounts": "list what is mounted, and clear what a crash left",
    "unpack": "write an image's root filesystem to a plain directory",
    "images": "list the images that are here",
    "inspect": "show what an image is and runs",
    "layers": "list the layers of an image",
    "history": "show the steps by which an image was made",
    "push": "send an image to a registry, a layout or an archive",
    "copy": "copy an image from place to place, without unpacking it",
    "index": "put several images under one name, one for each platform",
    "tags": "list the tags of a repository in a registry",
    "login": "keep credentials for a registry, once it has taken them",
    "logout": "forget the credentials for a registry",
    "rm": "remove images, and what no other image needs",
    "df": "show what images take on disk, shared and alone",
    "bench": "show where the time goes when an image is unpacked here",
}
"""Every verb, in the order in which ``--help`` lists them, with what it does."""


class Verb(Protocol):
    """What the module of a verb has.

    ``DESCRIPTION`` and ``EXAMPLES`` are texts for its help and its man page.
    """

    DESCRIPTION: str
    EXAMPLES: str

    def configure(self, parser: ArgumentParser) -> None:
        """Add the verb's arguments."""

    def run(self, args: Namespace, session: Session) -> None:
        """Do it."""


def load(name: str) -> Verb:
    """Import the module of a verb of `SUMMARIES`."""
    from importlib import import_module

    return cast("Verb", import_module(f"stacker.cli.verbs.{name}"))
