"""Write one file that a user names: an archive or an export.

A path comes in; an open file goes out, which gets its name when the caller has written everything.
A killed command leaves a temporary file, which the next command with the same path removes.  This
module must not know the format of the file.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.errors import NO_SPACE, StackerError, UsageError
from stacker.linux import safe_path
from stacker.linux.filesystem import file_identity, replaced_atomically, sweep_temporaries

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO


@contextmanager
def output_file(path: str, what: str, *, umask: int, replace: bool = False) -> Iterator[BinaryIO]:
    """Yield a temporary file, which is flushed and renamed to `path` when the context succeeds.

    :param what: the file's name for messages.
    :param umask: the permissions that the file does not get.
    :param replace: replace a regular file with that name.
    :raises UsageError: the file exists and may not be replaced.
    :raises StackerError: the file cannot be created or written.
    """
    try:
        _require_replaceable(path, what, replace=replace)
        above = safe_path.open_directory(Path(path).absolute().parent, follow=True)
        try:
            final = Path(f"/proc/self/fd/{above}", os.path.basename(path))
            sweep_temporaries(final.parent, final.name)
            with replaced_atomically(final, durable=True, mode=0o666 & ~umask) as file:
                yield file
        finally:
            os.close(above)
    except OSError as error:
        raise StackerError(
            f"cannot write: {what}: {error.strerror or error}", hint=_hint(error)
        ) from error


def _require_replaceable(path: str, what: str, *, replace: bool) -> None:
    if file_identity(path) is None:
        return
    if os.path.isdir(path):
        raise UsageError(
            f"is a directory: {what}: want the path of a file",
            hint=f"name a file, such as {os.path.join(path, 'image.tar')}",
        )
    if not replace:
        raise UsageError(f"file exists: {what}", hint="remove it, or name another file")
    if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
        raise UsageError(
            f"not a regular file: {what}: got a device, pipe or socket, want a regular file",
            hint="write to stdout and redirect it",
        )


def _hint(error: OSError) -> str | None:
    if error.errno not in NO_SPACE:
        return None
    return "free some space, or name a file on another filesystem"
