"""Make a squashfs image from a tar, by a program of Debian.

An empty file comes in; a pipe goes out that takes a tar.  The file has the image when the context
ends.  With tar2sqfs, the same tar gives the same image; sqfstar 4.5 ignores the option for the time
of the root directory.
This module must not read the store.
"""

from __future__ import annotations

import shutil
import stat
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from stacker.erofs.inodes import SECOND
from stacker.errors import StackerError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stacker.tree.protocol import Status

_PROGRAMS: Final = {
    "tar2sqfs": ("--force", "--quiet", "--no-skip"),
    "sqfstar": ("-force", "-quiet", "-no-progress", "-mkfs-time", "0"),
}
"""The programs and their options, first the one that stores the xattrs of the root directory."""
_MAX_MESSAGE: Final = 500


@contextmanager
def squashfs_writer(out: BinaryIO, root: Status) -> Iterator[BinaryIO]:
    """Yield a pipe for a tar; at the end of the context ``out`` has the image.

    :param out: an empty regular file.
    :param root: the attributes of the root directory.
    :raises UnsupportedError: neither program is installed.
    :raises StackerError: the program failed; the message has the end of its stderr.
    """
    program, path = _find()
    fd = out.fileno()
    with tempfile.TemporaryFile() as messages:
        options = [*_PROGRAMS[program], *(_root_options(root) if program == "sqfstar" else ())]
        # The times of the tar must stay; sqfstar refuses -mkfs-time beside the variable.
        command = ["env", "-u", "SOURCE_DATE_EPOCH", path, *options, f"/proc/self/fd/{fd}"]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=messages,
            pass_fds=[fd],
        )
        pipe = cast("BinaryIO", process.stdin)
        try:
            with suppress(BrokenPipeError):  # the exit code and stderr say why
                yield pipe
                pipe.close()
            code = process.wait()
        finally:
            process.kill()  # after an error; a half image must not be finished
            process.wait()
            with suppress(BrokenPipeError):  # a program that does not read would block the flush
                pipe.close()
        if code:
            messages.seek(0)
            text = messages.read().decode(errors="replace").strip()[-_MAX_MESSAGE:]
            raise StackerError(f"cannot make a squashfs image: {program}: {text or code}")


def _root_options(root: Status) -> Iterator[str]:
    """Yield the options for the root directory, whose member of the tar sqfstar ignores."""
    time = min(max(0, root.mtime // SECOND), 0xFFFF_FFFF)
    yield from ("-root-mode", f"{stat.S_IMODE(root.mode):o}", "-root-time", str(time))
    yield from ("-root-uid", str(root.uid), "-root-gid", str(root.gid))


def _find() -> tuple[str, str]:
    for program in _PROGRAMS:
        path = shutil.which(program)
        if path is not None:
            return program, path
    raise UnsupportedError(
        "cannot make a squashfs image: got neither sqfstar nor tar2sqfs, want one of them",
        hint="install the package squashfs-tools or squashfs-tools-ng",
    )
