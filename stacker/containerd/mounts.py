"""The mounts that containerd makes for a snapshot: bind mounts and overlays.

The directories of a snapshot and of its parents come in; `Mount` values go out, which have the
fields of containerd's API.  This module reads no database.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stacker.layer.metadata import copy_layer_attributes
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.store.snapshotters import DATABASE

LONGEST_OPTION: Final = 3500
"""Bytes of the option ``lowerdir`` with the layers' real paths.

mount(2) passes at most one page of options, 4,096 bytes on most machines.  A longer list uses short
symbolic links.  Real paths are better where they fit: containerd clones each lower directory for
a pod with a user namespace (open_tree(2)), and a clone of a symbolic link is not one of its target.
"""


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount, as containerd's API describes it.

    :param type: ``bind`` or ``overlay``.
    :param source: the directory of a bind mount.
    :param options: as mount(8) accepts them.
    """

    type: str
    source: str
    options: tuple[str, ...]

    @property
    def upper(self) -> Path:
        """The directory that receives the writes, or the source of a bind mount."""
        for option in self.options:
            if option.startswith("upperdir="):
                return Path(option.removeprefix("upperdir="))
        return Path(self.source)


@dataclass(frozen=True, slots=True)
class Directories:
    """The directories of a snapshotter below its root.

    :param root: an absolute path.
    :param whiteout_format: how layers of the store and overlays record deletions.
    """

    root: Path
    whiteout_format: WhiteoutFormat

    @property
    def database(self) -> Path:
        """The database of `stacker.containerd.metadata`."""
        return self.root / DATABASE

    @property
    def snapshots(self) -> Path:
        """The directories of all snapshots, by ID."""
        return self.root / "s"

    @property
    def links(self) -> Path:
        """Symbolic links with short names to lower directories."""
        return self.root / "l"

    @property
    def trash(self) -> Path:
        """What is being removed."""
        return self.root / "trash"

    def of(self, number: int) -> Path:
        """Return the directory of a snapshot."""
        return self.snapshots / str(number)

    def upper(self, number: int) -> Path:
        """Return the directory with the files of a snapshot."""
        return self.of(number) / "fs"

    def work(self, number: int) -> Path:
        """Return the work directory of an overlay, which is next to its upper directory."""
        return self.of(number) / "work"

    def make(self) -> None:
        """Create the directories, closed to other users."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.chmod(0o700)
        for path in (self.snapshots, self.links, self.trash):
            path.mkdir(mode=0o700, exist_ok=True)

    def discard(self, number: int) -> Path | None:
        """Move the directory of a snapshot to the trash, and return its path there."""
        target = self.trash / f"{number}-{os.urandom(4).hex()}"
        try:
            self.of(number).rename(target)
        except FileNotFoundError:
            return None
        return target

    def create(self, number: int, root_of: Path | None, *, writable: bool) -> None:
        """Create the directory of a snapshot; its root has the attributes of another one.

        :param root_of: the root directory of the parents, or ``None`` without parents.
        :param writable: also create a work directory.
        """
        self.discard(number)  # a killed process made it, and its transaction was lost
        self.of(number).mkdir(mode=0o700)
        upper = self.upper(number)
        upper.mkdir(mode=0o755)
        if root_of is None:
            upper.chmod(0o755)
        else:
            self.adopt_root(number, root_of)
        if writable:
            self.work(number).mkdir(mode=0o711)

    def adopt_root(self, number: int, root: Path) -> None:
        """Give the root of a snapshot the attributes of another directory.

        The root of an overlay has the attributes of the upper directory.
        """
        upper = self.upper(number)
        copy_layer_attributes(
            os.fsencode(root), os.fsencode(upper), whiteout_format=self.whiteout_format
        )

    def short(self, number: int, lower: Sequence[Path]) -> list[Path]:
        """Return symbolic links with short names to directories, and create those that lack.

        :param number: the snapshot that owns the links; `forget` removes them with it.
        """
        found = []
        for position, target in enumerate(lower):
            link = self.links / f"{number:x}.{position:x}"
            if not link.is_symlink() or link.readlink() != target:
                link.unlink(missing_ok=True)
                link.symlink_to(target)
            found.append(link)
        return found

    def forget(self, known: Iterable[int]) -> None:
        """Remove the links of all snapshots but the known ones."""
        names = {f"{number:x}" for number in known}
        for link in self.links.iterdir():
            if link.name.partition(".")[0] not in names:
                link.unlink(missing_ok=True)


def bind_mount(directory: Path, *, read_only: bool) -> Mount:
    """Return the bind mount of a directory."""
    return Mount("bind", str(directory), ("ro" if read_only else "rw", "rbind"))


def overlay_mount(
    lower: Sequence[Path],
    upper: tuple[Path, Path] | None,
    *,
    is_trusted: bool,
) -> Mount:
    """Return an overlay.

    redirect_dir and metacopy are off, because a layer's author could use both to expose files from
    elsewhere (Documentation/filesystems/overlayfs.rst, "Sharing and copying layers").

    :param lower: the lower directories, topmost first.
    :param upper: the upper and the work directory; ``None`` for a read-only overlay.
    :param is_trusted: whether deletions are recorded in trusted xattrs.
    """
    options = ["index=off", "redirect_dir=nofollow", "metacopy=off"]
    if not is_trusted:
        options.append("userxattr")
    if upper is not None:
        options += [f"workdir={upper[1]}", f"upperdir={upper[0]}"]
    options.append("lowerdir=" + ":".join(map(str, lower)))
    return Mount("overlay", "overlay", tuple(options))
