"""An OCI image layout in a directory, to write into; what is there stays.

In come blobs and documents, out come files: blobs first, ``index.json`` last, each by a rename.
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
from stacker.linux.filesystem import write_atomically, write_chunks_atomically
from stacker.stream.compression import read_chunks
from stacker.stream.verify import metered, verified

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from stacker.image.descriptor import Descriptor
    from stacker.image.digest import Digest
    from stacker.stream.compression import BlobOpener
    from stacker.stream.verify import ByteProgress

REF_NAME = "org.opencontainers.image.ref.name"
MARKER = to_bytes({"imageLayoutVersion": "1.0.0"})


@dataclass(frozen=True, slots=True)
class LayoutDirectory:
    """The layout in the absolute directory `path`, and the name for what is put there.

    See `Destination`.
    """

    path: str
    name: str
    what: str

    @property
    def is_sequential(self) -> bool:
        """False: blobs may come side by side."""
        return False

    def put_blob(
        self,
        descriptor: Descriptor,
        opened: BlobOpener | None,
        *,
        mount_from: Sequence[str] = (),
        report: ByteProgress,
    ) -> Transfer | None:
        """Have a blob in the layout; see `Destination`."""
        del mount_from
        place = self._blob(descriptor.digest)
        if place.exists() and place.stat().st_size == descriptor.size:
            return Transfer.PRESENT
        if opened is None:
            return None
        write_chunks_atomically(place, arriving(descriptor, opened, report))
        return Transfer.SENT

    def has_document(self, descriptor: Descriptor) -> bool:
        """Return False: a file says nothing of what it refers to; see `Destination`."""
        del descriptor
        return False

    def put_document(self, descriptor: Descriptor, content: bytes) -> None:
        """Keep a document; see `Destination`."""
        write_atomically(self._blob(descriptor.digest), content)

    def finish(self, root: Descriptor, content: bytes) -> None:
        """List the image; one that had its name before stays, without it."""
        self.put_document(root, content)
        directory = Path(self.path)
        with lock.exclusive(directory, create=False):
            index = self._index()
            write_atomically(directory / "index.json", listing(index.manifests, root, self.name))
            write_atomically(directory / "oci-layout", MARKER)

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
    """Return the layout to write into at the absolute `path`; it is made if it is not there.

    :raises UsageError: there is something else.
    :raises StackerError: it cannot be made.
    """
    try:
        os.makedirs(path, exist_ok=True)
        there = os.listdir(path)
    except OSError as error:
        raise StackerError(f"cannot write a layout: {what}: {error.strerror}") from error
    if there and "oci-layout" not in there:
        raise UsageError(
            f"not an OCI image layout: {what}: got a directory with other things in it, "
            "want an empty one or a layout"
        )
    return LayoutDirectory(path, name, what)


def listing(before: Sequence[Descriptor], root: Descriptor, name: str) -> bytes:
    """Return the ``index.json`` in which `root` has `name`, and nothing else has.

    An entry that loses its name stays, as image-spec wants what others may refer to; one that
    says the same as the new one goes.
    """
    annotations = {**root.annotations, **({REF_NAME: name} if name else {})}
    fresh = replace(root, annotations=annotations, data=None)
    kept = [_unnamed(entry, name) for entry in before]
    kept = [entry for entry in kept if entry.digest != root.digest or _named(entry)]
    return to_bytes(Index(mediatype.OCI_INDEX, (*kept, fresh)).to_json())


def arriving(descriptor: Descriptor, opened: BlobOpener, report: ByteProgress) -> Iterator[bytes]:
    """Give a blob's bytes, verified and reported."""
    with closing(opened()) as file:
        chunks = metered(read_chunks(file), _adding_up(report))
        yield from verified(
            chunks,
            digest=descriptor.digest,
            size=descriptor.size,
            what=f"blob {descriptor.digest}",
        )


def _adding_up(report: ByteProgress) -> Callable[[int], None]:
    done = 0

    def add(size: int) -> None:
        nonlocal done
        done += size
        report(done)

    return add


def _unnamed(entry: Descriptor, name: str) -> Descriptor:
    if not name or entry.annotations.get(REF_NAME) != name:
        return entry
    kept = {key: value for key, value in entry.annotations.items() if key != REF_NAME}
    return replace(entry, annotations=kept)


def _named(entry: Descriptor) -> str | None:
    return entry.annotations.get(REF_NAME)
