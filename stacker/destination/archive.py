"""Write an OCI image layout into a tar in one pass: ``oci-archive``.

Blobs and documents come in, one after another; an archive file goes out.  The file gets its name
when it is complete.  Equal images give equal archives: members have no times and no owners.
Sources: image-spec image-layout.md; POSIX ustar, and PAX for a blob of 8 GiB or of SHA-512.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from stacker.destination.layout import MARKER, updated_index, verified_chunks
from stacker.destination.output_file import output_file
from stacker.events import Transfer
from stacker.image import mediatype
from stacker.tar.write import BLOCK, END, Member, member_header

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import BinaryIO

    from stacker.image.descriptor import Descriptor
    from stacker.image.digest import Digest
    from stacker.stream.compression import BlobOpener
    from stacker.stream.verify import ByteProgress


class LayoutArchive:
    """A layout in the tar `file`; see `Destination`.

    :param name: the image's name in the layout, may be empty.
    """

    is_sequential = True

    def __init__(self, file: BinaryIO, name: str, what: str) -> None:
        self.what = what
        self._file = file
        self._name = name
        self._written: set[Digest] = set()
        self._add(mediatype.LAYOUT_FILE, len(MARKER), [MARKER])

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
        if descriptor.digest in self._written:
            return Transfer.PRESENT
        if opener is None:
            return None
        self._add_blob(descriptor, verified_chunks(descriptor, opener, report))
        return Transfer.SENT

    def has_document(self, descriptor: Descriptor) -> bool:
        """Return whether a document has been written; see `Destination`."""
        return descriptor.digest in self._written

    def put_document(self, descriptor: Descriptor, content: bytes) -> None:
        """Write a document; see `Destination`."""
        if descriptor.digest not in self._written:
            self._add_blob(descriptor, [content])

    def finish(self, root: Descriptor, content: bytes) -> None:
        """List the image, and write the end of the archive."""
        self.put_document(root, content)
        index = updated_index((), root, self._name)
        self._add("index.json", len(index), [index])
        self._file.write(END)

    def _add_blob(self, descriptor: Descriptor, chunks: Iterable[bytes]) -> None:
        digest = descriptor.digest
        self._add(f"blobs/{digest.algorithm}/{digest.hex}", descriptor.size, chunks)
        self._written.add(digest)

    def _add(self, name: str, size: int, chunks: Iterable[bytes]) -> None:
        """Write a member; `chunks` raises an error unless it has `size` bytes."""
        self._file.write(member_header(Member(name.encode(), b"0", size=size)))
        for chunk in chunks:
            self._file.write(chunk)
        self._file.write(bytes(-size % BLOCK))


@contextmanager
def open_layout_archive(path: str, name: str, what: str, *, umask: int) -> Iterator[LayoutArchive]:
    """Yield an archive, which is renamed to the absolute `path` when the context succeeds.

    :param umask: the permissions that the file does not get.
    :raises UsageError: the file exists.
    :raises StackerError: the file cannot be created or written.
    """
    with output_file(path, what, umask=umask) as file:
        yield LayoutArchive(file, name, what)
