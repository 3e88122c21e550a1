"""Write an OCI image layout in a directory; existing content stays.

Blobs and documents come in; files go out.  Each file is written atomically, and ``index.json`` is
the last one.  `stacker.destination.archive` writes the same layout into a tar.
Source: image-spec image-layout.md.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, StackerError, UsageError
from stacker.events import Transfer
from stacker.image import mediatype
from stacker.image.document import to_bytes
from stacker.image.manifest import Index, parse_document
from stacker.linux import lock
from stacker.linux.filesystem import (
    is_temporary,
    sweep_temporaries,
    sync_filesystem,
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
_NAMES = frozenset({mediatype.LAYOUT_FILE, "index.json", "blobs"})


@dataclass(frozen=True, slots=True)
class LayoutDirectory:
    """A layout in the absolute directory `path`; see `Destination`.

    :param name: the image's name in the layout, may be empty.
    """

    path: str
    name: str
    what: str

    @property
    def is_sequential(self) -> bool:
        """Return False: blobs may be written in parallel."""
        return False

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
        path = self._blob(descriptor.digest)
        if _is_intact(path, descriptor):
            return Transfer.PRESENT
        if opener is None:
            return None
        write_chunks_atomically(path, verified_chunks(descriptor, opener, report))
        return Transfer.SENT

    def has_document(self, descriptor: Descriptor) -> bool:
        """Return False: parts that the document refers to may be missing; see `Destination`."""
        del descriptor
        return False

    def put_document(self, descriptor: Descriptor, content: bytes) -> None:
        """Write a document; see `Destination`."""
        write_atomically(self._blob(descriptor.digest), content)

    def finish(self, root: Descriptor, content: bytes) -> None:
        """List the image; another image with the same name loses the name, but stays."""
        self.put_document(root, content)
        directory = Path(self.path)
        sync_filesystem(directory)  # the index must not refer to what a power cut can lose
        with lock.exclusive(directory, create=False):
            index = self._index()
            content = updated_index(index.manifests, root, self.name)
            write_atomically(directory / "index.json", content, durable=True)
            write_atomically(directory / mediatype.LAYOUT_FILE, MARKER, durable=True)

    def _blob(self, digest: Digest) -> Path:
        folder = Path(self.path) / "blobs" / digest.algorithm
        folder.mkdir(parents=True, exist_ok=True)
        return folder / digest.hex

    def _index(self) -> Index:
        path = Path(self.path) / "index.json"
        if not path.exists():
            return Index(mediatype.OCI_INDEX, ())
        what = f"{self.what}: index.json"
        found = parse_document(path.read_bytes(), media_type=None, what=what)
        if not isinstance(found, Index):
            raise IntegrityError(f"{what}: got a manifest, want an index")
        return found


def open_layout_directory(path: str, name: str, what: str) -> LayoutDirectory:
    """Return the layout at the absolute `path`; the directory is created if necessary.

    :raises UsageError: the directory has other content than a layout.
    :raises StackerError: the directory cannot be created.
    """
    directory = Path(path)
    try:
        os.makedirs(path, exist_ok=True)
        names = os.listdir(path)
    except OSError as error:
        raise StackerError(f"cannot write a layout: {what}: {error.strerror}") from error
    # An interrupted push leaves blobs and temporary files, and no marker yet.
    foreign = {each for each in names if each not in _NAMES and not is_temporary(each)}
    if foreign and mediatype.LAYOUT_FILE not in names:
        raise UsageError(
            f"not an OCI image layout: {what}: got a directory with other files, "
            "want an empty directory or a layout"
        )
    for folder in (directory, *(directory / "blobs").glob("*")):
        for final in ("index.json", mediatype.LAYOUT_FILE) if folder == directory else (None,):
            sweep_temporaries(folder, final)
    return LayoutDirectory(path, name, what)


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
