"""Write an OCI image layout in a directory; existing content stays.

Blobs and documents come in; files go out.  Each file is written atomically, and ``index.json`` is
the last one.  `stacker.destination.archive` writes the same layout into a tar.
Source: image-spec image-layout.md.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, StackerError, UsageError
from stacker.events import Transfer
from stacker.image import mediatype
from stacker.image.document import to_bytes
from stacker.image.manifest import Index, parse_document
from stacker.linux import lock, safe_path
from stacker.linux.filesystem import (
    is_temporary,
    sweep_temporaries,
    syncfs,
    write_atomically,
    write_chunks_atomically,
)
from stacker.stream.compression import read_chunks
from stacker.stream.verify import metered, verified

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from stacker.image.descriptor import Descriptor
    from stacker.image.digest import Digest
    from stacker.stream.compression import BlobOpener
    from stacker.stream.verify import ByteProgress

MARKER = to_bytes({"imageLayoutVersion": mediatype.LAYOUT_VERSION})
"""The content of the file that marks a layout."""
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NAMES = frozenset({mediatype.LAYOUT_FILE, "index.json", "blobs"})


@dataclass(frozen=True, slots=True)
class LayoutDirectory:
    """A layout in a directory; see `Destination`.

    The directory is opened once, because another process may exchange its path with a symlink.

    :param descriptor: the open directory; worker processes inherit it.
    :param name: the image's name in the layout, may be empty.
    :param umask: the permissions that new files and directories do not get.
    """

    descriptor: int
    name: str
    what: str
    umask: int

    @property
    def is_sequential(self) -> bool:
        """Return False: blobs may be written in parallel."""
        return False

    @property
    def accepts_indexes(self) -> bool:
        """Return True."""
        return True

    def put_blob(
        self,
        descriptor: Descriptor,
        opener: BlobOpener | None,
        *,
        mount_from: Sequence[str] = (),
        report: ByteProgress,
    ) -> Transfer | None:
        """Write a blob into the layout; see `Destination`."""
        del mount_from
        with self._blob(descriptor.digest) as path:
            if _is_intact(path, descriptor):
                return Transfer.PRESENT
            if opener is None:
                return None
            chunks = verified_chunks(descriptor, opener, report)
            write_chunks_atomically(path, chunks, mode=self._mode)
            return Transfer.SENT

    def has_document(self, descriptor: Descriptor) -> bool:
        """Return False: parts that the document refers to may be missing; see `Destination`."""
        del descriptor
        return False

    def put_document(self, descriptor: Descriptor, content: bytes) -> None:
        """Write a document; see `Destination`."""
        with self._blob(descriptor.digest) as path:
            write_atomically(path, content, mode=self._mode)

    def finish(self, root: Descriptor, content: bytes) -> None:
        """List the image; another image with the same name loses the name, but stays."""
        self.put_document(root, content)
        directory = _path_to(self.descriptor)
        syncfs(self.descriptor)  # the index must not refer to what a power cut can lose
        with _real_names(), lock.exclusive(directory, create=False):
            index = self._index()
            content = updated_index(index.manifests, root, self.name)
            for name, text in ("index.json", content), (mediatype.LAYOUT_FILE, MARKER):
                write_atomically(directory / name, text, durable=True, mode=self._mode)

    @property
    def _mode(self) -> int:
        return 0o666 & ~self.umask

    @contextmanager
    def _blob(self, digest: Digest) -> Iterator[Path]:
        with _real_names(), _folder(self, digest.algorithm) as folder:
            yield folder / digest.hex

    def _index(self) -> Index:
        path = _path_to(self.descriptor) / "index.json"
        if not path.exists():
            return Index(mediatype.OCI_INDEX, ())
        what = f"{self.what}: index.json"
        found = parse_document(path.read_bytes(), media_type=None, what=what)
        if not isinstance(found, Index):
            raise IntegrityError(f"{what}: got a manifest, want an index")
        return found


@contextmanager
def open_layout_directory(
    path: str, name: str, what: str, *, umask: int
) -> Iterator[LayoutDirectory]:
    """Yield the layout at the absolute `path`; the directory is created if necessary.

    :param umask: the permissions that new files and directories do not get.
    :raises UsageError: the directory has other content than a layout.
    :raises StackerError: the directory cannot be created, or a path leads through a symlink of
        another user.
    """
    with ExitStack() as opened:
        try:
            above = safe_path.make_directories(Path(path), mode=0o777 & ~umask)
            opened.callback(os.close, above)
            descriptor = os.open(b".", _LIST, dir_fd=above)
            opened.callback(os.close, descriptor)
            os.set_inheritable(descriptor, True)  # noqa: FBT003 - it has no keyword
            layout = LayoutDirectory(descriptor, name, what, umask)
            _check_and_sweep(layout)
        except OSError as error:
            raise StackerError(f"cannot write a layout: {what}: {error.strerror}") from error
        yield layout


def _check_and_sweep(layout: LayoutDirectory) -> None:
    names = os.listdir(layout.descriptor)
    # An interrupted push leaves blobs and temporary files, and no marker yet.
    foreign = {each for each in names if each not in _NAMES and not is_temporary(each)}
    if foreign and mediatype.LAYOUT_FILE not in names:
        raise UsageError(
            f"not an OCI image layout: {layout.what}: got a directory with other files, "
            "want an empty directory or a layout"
        )
    for final in ("index.json", mediatype.LAYOUT_FILE):
        sweep_temporaries(_path_to(layout.descriptor), final)
    if "blobs" in names:
        for algorithm in os.listdir(_path_to(layout.descriptor) / "blobs"):
            with suppress(NotADirectoryError), _folder(layout, algorithm) as folder:
                sweep_temporaries(folder)


@contextmanager
def _folder(layout: LayoutDirectory, algorithm: str) -> Iterator[Path]:
    """Open or create the directory of an algorithm's blobs."""
    mode = 0o777 & ~layout.umask
    start = layout.descriptor
    folder = safe_path.make_directories(Path("blobs", algorithm), mode=mode, start=start)
    try:
        yield _path_to(folder)
    finally:
        os.close(folder)


def _path_to(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}")


@contextmanager
def _real_names() -> Iterator[None]:
    """In an error, replace a path below a descriptor by the real path."""
    try:
        yield
    except OSError as error:
        if not isinstance(error.filename, str):
            raise
        raise OSError(error.errno, error.strerror, os.path.realpath(error.filename)) from error


def _is_intact(path: Path, descriptor: Descriptor) -> bool:
    """Return whether a file has the bytes of a blob: a size alone proves nothing."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != descriptor.size:
                return False
            found = descriptor.digest.new_hash()
            for chunk in read_chunks(file):
                found.update(chunk)
            return found.hexdigest() == descriptor.digest.hex
    except FileNotFoundError:
        return False


def updated_index(before: Sequence[Descriptor], root: Descriptor, name: str) -> bytes:
    """Return an ``index.json`` in which `root`, and no other entry, has `name`.

    An entry that loses its name stays.  An unnamed entry with the digest of `root` is removed.
    """
    annotations = {**root.annotations, **({mediatype.REF_NAME: name} if name else {})}
    fresh = replace(root, annotations=annotations, data=None)
    entries = [_unnamed(entry, name) for entry in before]
    entries = [entry for entry in entries if entry.digest != root.digest or _named(entry)]
    return to_bytes(Index(mediatype.OCI_INDEX, (*entries, fresh)).to_json())


def verified_chunks(
    descriptor: Descriptor, opener: BlobOpener, report: ByteProgress
) -> Iterator[bytes]:
    """Yield the bytes of a blob, verified, and report their number."""
    with closing(opener()) as file:
        chunks = metered(read_chunks(file), _cumulative(report))
        yield from verified(
            chunks,
            digest=descriptor.digest,
            size=descriptor.size,
            what=f"blob {descriptor.digest}",
        )


def _cumulative(report: ByteProgress) -> Callable[[int], None]:
    done = 0

    def add(size: int) -> None:
        nonlocal done
        done += size
        report(done)

    return add


def _unnamed(entry: Descriptor, name: str) -> Descriptor:
    if not name or entry.annotations.get(mediatype.REF_NAME) != name:
        return entry
    kept = {key: value for key, value in entry.annotations.items() if key != mediatype.REF_NAME}
    return replace(entry, annotations=kept)


def _named(entry: Descriptor) -> str | None:
    return entry.annotations.get(mediatype.REF_NAME)
