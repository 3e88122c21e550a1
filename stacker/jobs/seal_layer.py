"""Seal one layer: let the kernel check the contents of its files at each read.

A task comes in, a plain value that travels to a worker process; the number of sealed files goes
out.  The layer gets a file with the fs-verity digest of each of its files, by which `verify --fast`
notices a file that was replaced.  The caller verifies the layer first.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from stacker.errors import StackerError, path_of
from stacker.linux import verity
from stacker.linux.opath import open_below
from stacker.store.store import Store
from stacker.tar.entry import printable
from stacker.tree.compare import Difference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stacker.events import Emit
    from stacker.image.digest import DiffID
    from stacker.layer.paths import LayerPaths

_DIGEST: Final = 64  # hexadecimal digits


@dataclass(frozen=True, slots=True)
class SealTask:
    """A layer of the store at ``store`` to seal."""

    store: Store
    diff_id: DiffID


def seal_layer(task: SealTask, _: Emit) -> int:
    """Enable fs-verity on every regular file of a layer, which the caller has locked.

    :returns: the number of sealed files.
    :raises UnsupportedError: the filesystem or the kernel has no fs-verity.
    :raises StackerError: the kernel refuses for another reason.
    """
    store = task.store
    paths = store.layers.paths(task.diff_id)
    try:
        whole = _seal_whole_files(paths)
        lines = [_sealed(paths, path).hex().encode() + b" " + path for path in _files(paths)]
        with store.staging.directory("seal") as directory:
            (directory / "seals").write_bytes(b"".join(line + b"\0" for line in lines))
            (directory / "seals").rename(paths.seals)
    except OSError as error:
        name = printable(os.fsencode(path_of(error) or paths.root))
        raise StackerError(f"cannot seal: {name}: {error.strerror}") from error
    return len(lines) + whole


def _seal_whole_files(paths: LayerPaths) -> int:
    """Seal the tar and the index of a layer in EROFS form; the kernel reads no other file."""
    if "erofs" not in paths.forms:
        return 0
    for path in (paths.tar, paths.index):
        with path.open("rb") as file:
            verity.enable(file.fileno(), str(path))
    return 2


def _sealed(paths: LayerPaths, path: bytes) -> bytes:
    name = os.fsdecode(os.fsencode(paths.diff) + b"/" + path)
    fd = open_below(os.fsencode(paths.diff), path)
    try:
        verity.enable(fd, name)
        digest = verity.measure(fd, name)
    finally:
        os.close(fd)
    if digest is None:
        raise StackerError(f"cannot seal: {name}: got no fs-verity digest, want SHA-256")
    return digest


def seal_differences(paths: LayerPaths) -> Iterator[Difference]:
    """Yield the files of a sealed layer that lost their seal, or have another one.

    :raises OSError: a file cannot be opened.
    """
    if not paths.seals.exists():
        return
    for line in paths.seals.read_bytes().split(b"\0")[:-1]:
        want, path = line[:_DIGEST].decode("ascii", "replace"), line[_DIGEST + 1 :]
        try:
            fd = open_below(os.fsencode(paths.diff), path)
        except FileNotFoundError:  # the comparison of attributes names it
            continue
        try:
            digest = verity.measure(fd, os.fsdecode(path))
        finally:
            os.close(fd)
        got = "none" if digest is None else digest.hex()
        if got != want:
            yield Difference(path, "fs-verity", got, want)


def _files(paths: LayerPaths) -> Iterator[bytes]:
    top = os.fsencode(paths.diff)
    for directory, _, names in os.walk(top):
        for name in names:
            path = directory + b"/" + name
            if stat.S_ISREG(os.lstat(path).st_mode):
                yield path[len(top) + 1 :]
