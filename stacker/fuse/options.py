"""The settings of a FUSE server: the tree to serve, and the options of the mount.

A mount driver or `stacker-fuse` creates these values; the other modules of this package read them.
Values only: this module mounts nothing, and must not use a mount plan or the store.  The terms
are those of mount(8) and fuse-overlayfs(1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from stacker.linux import process

if TYPE_CHECKING:
    from pathlib import Path

    from stacker.layer.paths import LayerPaths, MergedIndex
    from stacker.linux.process import IdRange
    from stacker.tree.whiteout_dialects import WhiteoutDialect

FuseAdapter = Literal["kernel", "pyfuse3"]
"""The implementation that answers requests: this package's own (``kernel``), or libfuse."""

FuseWriter = Literal["overlay", "server"]
"""What handles the writes to a mount: the kernel's overlayfs above a read-only FUSE mount, or the
server itself."""


@dataclass(frozen=True, slots=True)
class Owners:
    """How user IDs, or group IDs, on disk map to the IDs in the mount.

    :param ranges: IDs on disk (`inside`) that appear as other IDs (`outside`); empty for no
        mapping.  The first range that contains an ID applies.
    :param squashed: the ID that all files appear to have; it takes precedence over `ranges`.
    :param overflow: the ID for all IDs outside of every range, in both directions.
    """

    ranges: tuple[IdRange, ...] = ()
    squashed: int | None = None
    overflow: int = process.OVERFLOW_ID

    def in_mount(self, on_disk: int) -> int:
        """Return the ID in the mount for an ID on disk."""
        if self.squashed is not None:
            return self.squashed
        for each in self.ranges:
            if 0 <= on_disk - each.inside < each.count:
                return on_disk - each.inside + each.outside
        return self.overflow if self.ranges else on_disk

    def on_disk(self, in_mount: int) -> int:
        """Return the ID on disk for an ID in the mount."""
        for each in self.ranges:
            if 0 <= in_mount - each.outside < each.count:
                return in_mount - each.outside + each.inside
        return self.overflow if self.ranges else in_mount

    @property
    def is_identity(self) -> bool:
        """Whether no ID changes."""
        return self.squashed is None and not self.ranges


@dataclass(frozen=True, slots=True)
class FuseOptions:
    """Options of one FUSE mount; the defaults are those of ``stacker mount``.

    :param adapter: the implementation that answers requests.
    :param passthrough: let the kernel read large files without the server, where it can.
    :param source: the source in mountinfo; ``None`` for ``stacker:<id>``.
    :param subtype: the type in mountinfo is ``fuse.<subtype>``.
    :param mount_options: options of mount(8) such as ``nosuid`` and ``noatime``, but not ``ro``;
        ``None`` for ``nosuid,nodev`` in a user namespace and no option elsewhere.
    :param allow_other: let other users access the mount (fuse(8)); ``None`` allows it where the
        kernel needs no permission from fusermount3.
    :param users: how owners map.
    :param groups: how groups map.
    :param foreign: other programs wrote the directories, so every format of deletions is read;
        they can also unmount the directories as soon as the mount exists.
    :param acls: let the kernel enforce POSIX ACLs, if `keeps_owners`.
    :param writer: what handles writes to a mount of ``stacker mount``; ``None`` for overlayfs, or
        the server where the kernel refuses an overlay.
    """

    adapter: FuseAdapter = "kernel"
    passthrough: bool = False
    source: str | None = None
    subtype: str = "stacker"
    mount_options: frozenset[str] | None = None
    allow_other: bool | None = None
    users: Owners = Owners()
    groups: Owners = Owners()
    foreign: bool = False
    acls: bool = True
    writer: FuseWriter | None = None

    @property
    def keeps_owners(self) -> bool:
        """Whether owners and groups in the mount are those on disk."""
        return self.users.is_identity and self.groups.is_identity

    @property
    def has_acls(self) -> bool:
        """Whether the kernel enforces POSIX ACLs; their entries name owners on disk."""
        return self.acls and self.keeps_owners

    @property
    def is_squashed(self) -> bool:
        """Whether all files have one owner or one group, so that chown(2) has no effect."""
        return self.users.squashed is not None or self.groups.squashed is not None


@dataclass(frozen=True, slots=True)
class Overlay:
    """The overlay above a FUSE mount.

    Its server escapes overlayfs's names of xattrs, locks the upper directory, and unmounts the
    overlay on SIGTERM.

    :param source: the source in mountinfo.
    :param upper: the upper directory.
    """

    source: str
    upper: Path


@dataclass(frozen=True, slots=True)
class ServedTree:
    """The tree that one FUSE mount serves; paths are absolute.

    :param target: the mount point.
    :param source: the source in mountinfo.
    :param layers: the layers to merge, topmost first; a path alone for a directory without a
        skeleton.  With `merged` there are none.
    :param whiteout_format: how deletions are read, and written to `upper`.
    :param read_only: refuse writes; an `upper` is then one more layer.
    :param upper: the directory that receives the writes.
    :param work: the directory for unfinished copies, on the filesystem of `upper`.
    :param volatile: `upper` is discarded at unmount, so fsync(2) does nothing.
    :param options: the options of the mount.
    :param merged: the index to serve instead of layers.
    :param overlay: the overlay above a read-only mount, if it has one.
    """

    target: Path
    source: str
    layers: tuple[LayerPaths | Path, ...]
    whiteout_format: WhiteoutDialect
    read_only: bool = True
    upper: Path | None = None
    work: Path | None = None
    volatile: bool = False
    options: FuseOptions = FuseOptions()
    merged: MergedIndex | None = None
    overlay: Overlay | None = None


def overflow_ids() -> tuple[int, int]:
    """Return the overflow user ID and group ID that the kernel uses (proc_sys_kernel(5))."""
    return process.overflow_id("uid"), process.overflow_id("gid")
