"""Templates: the files that a conformance case finds in its directory.

A template is a list of things.  `members` writes it into an image's layers; `build` creates it with
system calls.  So a case is the same for files of a lower layer and for new files.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support import tars

MTIME: Final = tars.MTIME
UNPRIVILEGED: Final = 65534


@dataclass(frozen=True)
class Thing:
    """One entry: a file, directory, symlink, link (to an earlier path) or fifo."""

    kind: str
    path: bytes
    data: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()

    def member(self, parent: bytes) -> bytes:
        """Return the thing as an entry of a layer."""
        path = parent + b"/" + self.path
        options: tars.Options = {"mode": self.mode, "uid": self.uid, "gid": self.gid}
        options["mtime"] = MTIME
        if self.xattrs:
            options["xattrs"] = dict(self.xattrs)
        match self.kind:
            case "directory":
                return tars.dir(path + b"/", **options)
            case "symlink":
                return tars.symlink(path, self.data, **options)
            case "link":
                return tars.hardlink(path, parent + b"/" + self.data, **options)
            case "fifo":
                return tars.fifo(path, **options)
            case _:
                return tars.file(path, self.data, **options)

    def make(self, parent: bytes) -> None:
        """Create the thing with system calls; keep an existing directory."""
        path = parent + b"/" + self.path
        match self.kind:
            case "directory":
                if os.path.isdir(path):
                    return
                os.mkdir(path)
            case "symlink":
                os.symlink(self.data, path)
            case "link":
                os.link(parent + b"/" + self.data, path)
                return
            case "fifo":
                os.mkfifo(path)
            case _:
                with open(path, "xb") as file:
                    file.write(self.data)
        self._attributes(path)

    def _attributes(self, path: bytes) -> None:
        if (self.uid, self.gid) != (0, 0):
            os.lchown(path, self.uid, self.gid)
        for name, value in self.xattrs:
            os.setxattr(path, name, value)
        if self.kind != "symlink":
            os.chmod(path, self.mode)


Template = tuple[Thing, ...]


def file(path: str, data: bytes = b"x", mode: int = 0o644, owner: int = 0) -> Thing:
    return Thing("file", path.encode(), data, mode, owner, owner)


def directory(path: str, mode: int = 0o755, owner: int = 0) -> Thing:
    return Thing("directory", path.encode(), b"", mode, owner, owner)


def symlink(path: str, target: str) -> Thing:
    return Thing("symlink", path.encode(), target.encode(), 0o777)


DATA: Final = bytes(range(256)) * 20
LONG: Final = "n" * 255

USUAL: Final[Template] = (
    file("file", DATA),
    file("other", b"other"),
    file("empty", b""),
    file("setid", b"#!/bin/sh\n", 0o6755, UNPRIVILEGED),
    file("mine", b"mine", 0o644, UNPRIVILEGED),
    file("secret", b"secret", 0o600),
    file("everybodys", b"everybodys", 0o666),
    Thing("file", b"noted", b"noted", xattrs=(("user.note", b"1"),)),
    file("linked-a", b"linked"),
    Thing("link", b"linked-b", b"linked-a"),
    directory("full"),
    file("full/inner", b"inner"),
    directory("full/sub"),
    file("full/sub/deep", b"deep"),
    directory("hollow"),
    directory("hollow2"),
    directory("open", 0o777),
    file("open/roots", b"roots"),
    directory("open/dir", 0o755),
    directory("sticky", 0o1777),
    file("sticky/mine", b"mine", 0o644, UNPRIVILEGED),
    file("sticky/roots", b"roots", 0o666),
    directory("sticky/dir", 0o777),
    directory("closed", 0o700),
    file("closed/inside", b"inside", 0o666),
    directory("unlisted", 0o711),
    file("unlisted/inside", b"inside"),
    directory("unprivileged", 0o755, UNPRIVILEGED),
    file("unprivileged/roots", b"roots"),
    directory("setgid", 0o2777, UNPRIVILEGED),
    symlink("link", "file"),
    symlink("dirlink", "full"),
    symlink("dangling", "missing"),
    symlink("loop", "loop"),
    Thing("fifo", b"fifo"),
)
PROGRAM: Final[Template] = (file("program", Path("/bin/cat").read_bytes(), 0o755),)
"""A program that waits for the end of its input."""
RANDOM: Final[Template] = (file("data", bytes(n * n % 251 for n in range(20_000))),)
CROWD: Final[Template] = tuple(file(f"{number:02}-{'c' * 40}", b"") for number in range(40))
NAMES: Final[Template] = (
    *(
        Thing("file", b"x" + bytes([byte]), bytes([byte]))
        for byte in range(1, 256)
        if byte != ord("/")
    ),
    file(LONG, b"long"),
    directory("d" * 255),
    file("d" * 255 + "/" + LONG, b"long"),
)


def members(template: Iterable[Thing], parent: bytes) -> Iterator[bytes]:
    """Return a directory with a template's things, as entries of a layer."""
    yield tars.dir(parent + b"/", mtime=MTIME)
    for thing in template:
        yield thing.member(parent)


def half(template: Template) -> Template:
    """Return the part of a template that a merged directory has from its lower layer.

    It has all directories and every second other thing; a link is with its target.
    """
    others = [thing for thing in template if thing.kind not in {"directory", "link"}]
    kept = {thing.path for thing in others[::2]}
    return tuple(
        thing
        for thing in template
        if thing.kind == "directory" or (thing.data if thing.kind == "link" else thing.path) in kept
    )


def build(template: Iterable[Thing], parent: Path) -> None:
    """Create things in a directory, and set their times and their parents' times."""
    root = os.fsencode(parent)
    made = []
    for thing in template:
        thing.make(root)
        made.append(root + b"/" + thing.path)
    changed = dict.fromkeys([*reversed(made), *map(os.path.dirname, reversed(made)), root])
    for path in changed:
        os.utime(path, (MTIME, MTIME), follow_symlinks=False)


def clear(parent: Path) -> None:
    """Delete everything in a directory."""
    for entry in os.scandir(os.fsencode(parent)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
