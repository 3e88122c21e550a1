"""What a FUSE mount looks like to others where it is not as this program makes its own.

In come a source, options and owners as somebody asked for them; they go into a `Plan`.  Values
only: nothing is mounted here.  The words are those of mount(8) and of fuse-overlayfs.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from stacker.linux.process import IdRange

OVERFLOW: Final = 65534
"""The id of who has none here, unless the kernel is told otherwise (proc_sys_kernel(5))."""


@dataclass(frozen=True, slots=True)
class Owners:
    """Which ids show for those on disk.

    :param ranges: ids on disk (`inside`) that show as others (`outside`); none for all as they
        are.  The first that has an id counts.
    :param squashed: the id that shows for every one; it goes before `ranges`.
    :param overflow: what shows for an id in no range, and is kept for one that nobody shows as.
    """

    ranges: tuple[IdRange, ...] = ()
    squashed: int | None = None
    overflow: int = OVERFLOW

    def shown(self, kept: int) -> int:
        """Give the id that shows for one on disk."""
        if self.squashed is not None:
            return self.squashed
        for each in self.ranges:
            if 0 <= kept - each.inside < each.count:
                return kept - each.inside + each.outside
        return self.overflow if self.ranges else kept

    def kept(self, shown: int) -> int:
        """Give the id on disk for one that shall show."""
        for each in self.ranges:
            if 0 <= shown - each.outside < each.count:
                return shown - each.outside + each.inside
        return self.overflow if self.ranges else shown

    @property
    def as_they_are(self) -> bool:
        """Whether nothing is changed."""
        return self.squashed is None and not self.ranges


@dataclass(frozen=True, slots=True)
class Guise:
    """How a mount shows, and to whom.

    :param source: what /proc/self/mountinfo shows as its source.
    :param subtype: its type there is ``fuse.`` and this.
    :param options: of mount(8): ``nosuid``, ``noatime``, …; but not ``ro``, which is the plan's.
    :param to_all: others than who mounts it may use it (``allow_other`` of fuse(8)).
    :param users: the owners of files.
    :param groups: their groups.
    """

    source: str
    subtype: str
    options: frozenset[str] = frozenset()
    to_all: bool = True
    users: Owners = Owners()
    groups: Owners = Owners()

    @property
    def owners_as_they_are(self) -> bool:
        """Whether owners and groups show as they are on disk."""
        return self.users.as_they_are and self.groups.as_they_are

    @property
    def is_squashed(self) -> bool:
        """Whether files cannot be given to anybody, since all have one owner or group."""
        return self.users.squashed is not None or self.groups.squashed is not None


def overflow_ids() -> tuple[int, int]:
    """Return the ids of users and groups that have none here, as the kernel is set."""
    return _overflow("uid"), _overflow("gid")


def _overflow(kind: str) -> int:
    try:
        return int(Path(f"/proc/sys/kernel/overflow{kind}").read_bytes())
    except OSError:
        return OVERFLOW
