"""Write an OCI image layout into a tar in one pass: ``oci-archive``.

Blobs and documents come in, one after another; an archive goes out.  Equal images give equal
archives: members have no times and no owners.
Sources: image-spec image-layout.md; POSIX ustar, and PAX for a blob of 8 GiB or of SHA-512.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.destination.layout import MARKER, updated_index, verified_chunks
from stacker.events import Transfer
from stacker.image import mediatype
from stacker.tar.write import BLOCK, END, Member, member_header

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import BinaryIO

    from stacker.image.descriptor import Descriptor
    from stacker.image.digest import Digest
    from stacker.stream.compression import BlobOpener
    from stacker.stream.verify import ByteProgress


class LayoutArchive:
    """A layout in the tar `file`; see `Destination`.

    `written` has the digests of its blobs and documents.

    :param name: the image's name in the layout, may be empty.
    """

    is_sequential = True
    accepts_indexes = True

    def __init__(self, file: BinaryIO, name: str, what: str) -> None:
        self.what = what
        self._file = file
        self._name = name
        self.written: set[Digest] = set()

    def put_blob(
        self,
        descriptor: Descriptor,
        opener: BlobOpener | None,
        *,
        mount_from: Sequence[str] = (),
        report: ByteProgress,
    ) -> Transfer | None:
        """Write a blob into the archive; see `Destination`."""
        del mount_from
        if descriptor.digest in self.written:
            return Transfer.PRESENT
        if opener is None:
            return None
        self._add_blob(descriptor, verified_chunks(descriptor, opener, report))
        return Transfer.SENT

    def has_document(self, descriptor: Descriptor) -> bool:
        """Return whether a document has been written; see `Destination`."""
        return descriptor.digest in self.written

    def put_document(self, descriptor: Descriptor, content: bytes) -> None:
        """Write a document; see `Destination`."""
        if descriptor.digest not in self.written:
            self._add_blob(descriptor, [content])

    def finish(self, root: Descriptor, content: bytes) -> None:
        """List the image, and write the end of the archive."""
        self.put_document(root, content)
        index = updated_index((), root, self._name)
        self.add("index.json", len(index), [index])
        self._file.write(END)

    def _add_blob(self, descriptor: Descriptor, chunks: Iterable[bytes]) -> None:
        digest = descriptor.digest
        if not self.written:
            self.add(mediatype.LAYOUT_FILE, len(MARKER), [MARKER])
        self.add(f"blobs/{digest.algorithm}/{digest.hex}", descriptor.size, chunks)
        self.written.add(digest)

    def add(self, name: str, size: int, chunks: Iterable[bytes]) -> None:
        """Write a member; `chunks` raises an error unless it has `size` bytes."""
        self._file.write(member_header(Member(name.encode(), b"0", size=size)))
        for chunk in chunks:
            self._file.write(chunk)
        self._file.write(bytes(-size % BLOCK))
