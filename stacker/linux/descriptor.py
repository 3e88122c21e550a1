"""A file descriptor that closes itself, and the short path that leads to it.

In comes a descriptor or a directory's path.  Knows nothing of what it is for.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType


class Descriptor:
    """A descriptor that a ``with`` block closes.

    :param number: the open descriptor, owned from now on.
    """

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    @classmethod
    def of_directory(cls, path: Path) -> Descriptor:
        """Open a directory to name it, not to read it; a symlink is not followed.

        :raises OSError: when it is missing, or no directory.
        """
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        return cls(os.open(path, flags))

    @property
    def path(self) -> Path:
        """A path that leads to the very same object: short, and without special characters."""
        return Path(f"/proc/self/fd/{self.number}")

    def __enter__(self) -> Descriptor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self.number)
