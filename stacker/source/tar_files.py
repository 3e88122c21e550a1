"""A tar archive as a tree of files, without unpacking it.

The path of an uncompressed tar comes in; an `Archive` goes out, in which each file is a slice of
the tar.  This module follows links among the members itself.  The kernel never gets a path from the
archive, so no link can lead out of it.  This module must not know what the files mean.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, LayerError, NotFoundError
from stacker.image.document import quoted
from stacker.source.files import FileSlice, open_regular
from stacker.tar.index import read_index

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stacker.tar.index import Member

MEMBERS_LIMIT = 200_000
"""Maximum members of an archive.  Each costs memory; real archives have a few dozen."""

_MOST_LINKS = 40  # the limit of Linux, path_resolution(7)
_COMPARED = 1 << 20  # bytes at a time
_FILE, _HARD_LINK, _SYMLINK = b"0", b"1", b"2"


@dataclass(frozen=True, slots=True)
class Archive:
    """The files in the tar at the absolute `path`.

    :param members: name → offset and size of a file, in bytes.
    :param links: name → target of a link.
    :param ambiguous: names that several different files have; parsers may choose differently.
    """

    path: str
    what: str
    members: Mapping[str, tuple[int, int]] = field(hash=False, repr=False)
    links: Mapping[str, str] = field(hash=False, repr=False)
    ambiguous: frozenset[str] = field(hash=False, repr=False)

    def open(self, name: str) -> FileSlice:
        """Return the content of a member; see `FileTree`."""
        offset, size = self.members[self.find(name)]
        fd, _ = open_regular(self.path, self.what)
        return FileSlice(fd, offset, size)

    def find(self, name: str) -> str:
        """Return the name of the file that `name` resolves to.

        :raises NotFoundError: no such file.
        :raises IntegrityError: a link leads out of the archive, forms a loop, or leads to an
            ambiguous name.
        """
        found = self._inside(name)
        for _ in range(_MOST_LINKS):
            if found in self.ambiguous:
                raise IntegrityError(
                    f"ambiguous archive: {self.what}: {quoted(found)}: "
                    "got several different members, want one"
                )
            if found not in self.links:
                break
            found = self._inside(self.links[found])
        else:
            raise IntegrityError(
                f"link loop: {self.what}: {quoted(name)}: got more than {_MOST_LINKS} links, "
                "want a file"
            )
        if found not in self.members:
            raise NotFoundError(f"not found: {self.what}: {quoted(name)}")
        return found

    def has(self, name: str) -> bool:
        """Return whether the archive has a file or a link with that name."""
        return name in self.members or name in self.links

    def _inside(self, name: str) -> str:
        found = _normalised(name)
        if found is None:
            raise IntegrityError(
                f"unsafe name: {self.what}: {quoted(name)}: got a path outside the archive, "
                "want one inside"
            )
        return found


def open_archive(path: str, what: str, *, limit: int = MEMBERS_LIMIT) -> Archive:
    """Return the archive at `path`, after one pass over the headers.

    :param path: the absolute path of an uncompressed tar, a regular file.
    :param what: the archive's name for messages.
    :param limit: maximum members.
    :raises NotFoundError: no such file.
    :raises IntegrityError: not a tar, truncated, or over the limit.
    """
    fd, _ = open_regular(path, what)
    with os.fdopen(fd, "rb") as file:
        table = _Table(fd)
        try:
            for count, member in enumerate(read_index(file, what), 1):
                if count > limit:
                    raise IntegrityError(
                        f"too many members: {what}: got more than {limit}, want at most {limit}"
                    )
                table.add(member)
        except LayerError as error:
            # The tar parser's message is about a layer, but this archive is not one.
            raise IntegrityError(error.message, hint=error.hint) from error
    return Archive(path, what, table.members, table.links, frozenset(table.ambiguous))


class _Table:
    """The members of an archive, collected from its headers."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.members: dict[str, tuple[int, int]] = {}
        self.links: dict[str, str] = {}
        self.ambiguous: set[str] = set()

    def add(self, member: Member) -> None:
        if member.kind not in (_FILE, _HARD_LINK, _SYMLINK):
            return
        # The parser has removed "..".  No document can refer to a name that is not UTF-8;
        # surrogateescape keeps such names distinct.
        name = member.name.decode("utf-8", "surrogateescape")
        if member.kind == _FILE:
            self._add_file(name, member)
        else:
            self._add_link(name, member)

    def _add_file(self, name: str, member: Member) -> None:
        window = (member.offset, member.size)
        if name in self.links or not self._same(self.members.get(name, window), window):
            self.ambiguous.add(name)
        self.members[name] = window

    def _add_link(self, name: str, member: Member) -> None:
        target = member.linkname.decode("utf-8", "surrogateescape")
        if member.kind == _SYMLINK and not target.startswith("/"):
            target = f"{name.rpartition('/')[0]}/{target}"
        if name in self.members or self.links.get(name, target) != target:
            self.ambiguous.add(name)
        self.links[name] = target

    def _same(self, one: tuple[int, int], other: tuple[int, int]) -> bool:
        """Return whether two members have equal content; some tools repeat layers."""
        if one[1] != other[1]:
            return False
        return one == other or all(
            os.pread(self._fd, min(_COMPARED, one[1] - at), one[0] + at)
            == os.pread(self._fd, min(_COMPARED, one[1] - at), other[0] + at)
            for at in range(0, one[1], _COMPARED)
        )


def _normalised(name: str) -> str | None:
    """Return `name` without empty, ``.`` and ``..`` components; None if it leads out."""
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)
