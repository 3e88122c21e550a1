"""Write the tar of a layer to disk, as a tree with a skeleton or as the tar with its index.

    tree:  tar -> entries -> files; the rest of the tar -> skeleton
    erofs: tar -> file and entries -> inodes -> index

Chunks of a tar come in; the files of a layer go out, with their :class:`LayerRecord`.  The caller
verifies the chunks, and publishes the layer.  This module must not use the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO, Final

from stacker.erofs.format import BLOCK
from stacker.erofs.inodes import Inodes
from stacker.erofs.write import write_index
from stacker.layer.apply import apply, zero_umask
from stacker.layer.apply_index import apply_to_index
from stacker.layer.skeleton import SkeletonWriter
from stacker.linux.filesystem import create_private
from stacker.stream.stages import APPLY, NO_OBSERVER, PARSE, StageObserver
from stacker.tar.reader import TarReader

if TYPE_CHECKING:
    from stacker.jobs.tasks import UnpackOptions
    from stacker.layer.paths import Form, LayerPaths
    from stacker.layer.record import LayerRecord
    from stacker.tar.entry import Entry

_BUFFER: Final = 1 << 20

Started = Callable[[TarReader], object]
"""Called with the reader of the entries, whose ``count`` shows the progress."""


class _Entries(TarReader):
    """A reader whose observer sees each entry."""

    observer = NO_OBSERVER

    def start(self, observer: StageObserver, started: Started) -> None:
        """Set the observer, and report the reader."""
        self.observer = observer
        started(self)

    def __iter__(self) -> Iterator[Entry]:
        return self.observer.iterate(PARSE, super().__iter__())


def write_layer(
    chunks: Iterator[bytes],
    paths: LayerPaths,
    form: Form,
    options: UnpackOptions,
    *,
    what: str,
    started: Started = lambda _: None,
    observer: StageObserver = NO_OBSERVER,
) -> LayerRecord:
    """Write a layer into its empty directory, in one form.

    :param chunks: the whole tar; they are read to the end, unless an entry is malformed.
    :param what: the name of the layer in errors.
    :returns: the record, without the blob's digest and the length of the tar.
    :raises LayerError: the layer is malformed or hostile, or exceeds a limit.
    :raises StackerError: the kernel refuses a system call, e.g. because the disk is full.
    :raises OSError: the same, for the files beside the tree.
    """
    write = _write_tree if form == "tree" else _write_index
    return write(chunks, paths, options, what=what, started=started, observer=observer)


def _write_tree(
    chunks: Iterator[bytes],
    paths: LayerPaths,
    options: UnpackOptions,
    *,
    what: str,
    started: Started,
    observer: StageObserver,
) -> LayerRecord:
    paths.diff.mkdir(mode=0o700)
    with paths.skeleton.open("wb") as file:
        skeleton = SkeletonWriter(file)
        entries = _Entries(chunks, what=what, limits=options.limits, keep=skeleton.keep)
        entries.start(observer, started)
        with zero_umask(), observer.measure(APPLY):
            record = apply(
                entries,
                paths.diff,
                replaced=paths.replaced,
                whiteout_format=options.whiteout_format,
                idmap=options.idmap,
                limits=options.limits,
            )
        skeleton.finish()
    return record


def _write_index(
    chunks: Iterator[bytes],
    paths: LayerPaths,
    options: UnpackOptions,
    *,
    what: str,
    started: Started,
    observer: StageObserver,
) -> LayerRecord:
    with ExitStack() as opened:
        tar = opened.enter_context(create_private(paths.tar))
        entries = _Entries(_written(chunks, tar), what=what, limits=options.limits)
        entries.start(observer, started)
        inodes = Inodes()
        with observer.measure(APPLY):
            root, record = apply_to_index(
                entries,
                inodes,
                tar=1,
                whiteout_format=options.whiteout_format,
                idmap=options.idmap,
                limits=options.limits,
            )
            size = tar.tell()
            tar.truncate(size + -size % BLOCK)
            write_index(paths.index, inodes, root, [(paths.tar, size)])
    return record


def _written(chunks: Iterator[bytes], file: BinaryIO) -> Iterator[bytes]:
    """Yield the chunks after each was written to a file."""
    for chunk in chunks:
        file.write(chunk)
        yield chunk
