"""Make the hard links of a layer whose targets are in lower layers.

The links come in; :func:`make_links` calls a :class:`LinkMaker` for each, in an order in which its
target exists.  Subclasses make links on disk (:mod:`stacker.stack.fixups`), or in memory
(:mod:`stacker.stack.build_index`).  This module must not use a filesystem.

A layer's entry at a link's name hides the lower entry, even while the link waits.  So a target
that is another link of the same layer is never looked up in the layers below.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

from stacker.errors import LayerError
from stacker.layer.pending_links import PendingLinks
from stacker.layer.symlinks import follow_symlinks, join
from stacker.tar.entry import HardLink, printable

File = TypeVar("File")
"""What identifies a file of the tree: a path on disk, or a number."""


class _NotYetError(Exception):
    """The target is at or behind ``path``, a link of the same layer that does not exist yet."""

    def __init__(self, path: bytes) -> None:
        super().__init__(path)
        self.path = path


class LinkMaker(ABC, Generic[File]):
    """Makes links in a tree; lookups do not see the links made so far.

    :param links: the links of a layer.
    :param what: the name of the layer in errors.
    """

    def __init__(self, links: Sequence[HardLink], what: str) -> None:
        self.left = PendingLinks(links)
        self.what = what
        self._made: dict[bytes, File] = {}

    @abstractmethod
    def _find(self, path: bytes) -> tuple[File, bool] | None:
        """Return the file at a path, and whether it is a directory."""

    @abstractmethod
    def _symlink_below(self, path: bytes) -> bytes | None:
        """Return the target if a path is a symbolic link."""

    @abstractmethod
    def _target_of(self, file: File) -> bytes | None:
        """Return the target if a file is a symbolic link."""

    @abstractmethod
    def _link(self, file: File, path: bytes) -> File:
        """Give a file one more name, and make missing directories; return the new file."""

    def make(self, link: HardLink) -> bytes | None:
        """Make a link and return ``None``, or return the path of the link that it waits for."""
        try:
            source = self._source(link)
        except _NotYetError as error:
            return error.path
        if source is not None:
            self._made[link.path] = self._link(source, link.path)
        return None

    def _source(self, link: HardLink) -> File | None:
        """Return the file to link, or ``None`` for a link to itself, which changes nothing."""
        above, _, name = link.target.rpartition(b"/")
        path = join(follow_symlinks(above, self._symlink, want="a file"), name)
        if path == link.path and self._found(path) is not None:
            return None
        if path in self.left and path != link.path:
            raise _NotYetError(path)
        if path in self._made:
            return self._made[path]
        return self._linkable(self._found(path), link)

    def _found(self, path: bytes) -> tuple[File, bool] | None:
        """Look up a target; a link on its path hides the lower layers."""
        above = path
        while above := above.rpartition(b"/")[0]:
            if above in self._made:
                return None
        return self._find(path)

    def _symlink(self, path: bytes) -> bytes | None:
        if path in self.left:
            raise _NotYetError(path)
        made = self._made.get(path)
        return self._symlink_below(path) if made is None else self._target_of(made)

    def _linkable(self, found: tuple[File, bool] | None, link: HardLink) -> File:
        if found is None or found[1]:
            raise LayerError(
                f"malformed hard link: {self.what}: {printable(link.path)}: got the target "
                f"{printable(link.target)}, which "
                f"{'is a directory' if found else 'does not exist'}, "
                "want a file of this layer or one below"
            )
        return found[0]


def make_links(maker: LinkMaker[File]) -> None:
    """Make all links of a layer.

    :raises LayerError: a target does not exist, or is a directory.
    """
    maker.left.make(maker.make)
    for link in maker.left:
        raise LayerError(
            f"malformed hard link: {maker.what}: {printable(link.path)}: got the target "
            f"{printable(link.target)}, which depends on this link itself, want a file"
        )
