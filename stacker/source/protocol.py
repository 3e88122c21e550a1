"""The interface of a source, and how a document is read from one.

A source opens the documents and blobs of an image; it does not know what the layers contain.  It is
a plain value that can be pickled, so worker processes can use it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from stacker.errors import IntegrityError
from stacker.image.document import DOCUMENT_LIMIT

if TYPE_CHECKING:
    from typing import BinaryIO

    from stacker.image.descriptor import Descriptor
    from stacker.image.digest import Digest
    from stacker.stream.compression import Readable


class Source(Protocol):
    """An image or an index of images outside of the store."""

    @property
    def names(self) -> tuple[str, ...]:
        """The image's names in the source, best one first; may be empty."""

    def root(self) -> Descriptor:
        """Return the descriptor of the chosen manifest or index."""

    def document(self, descriptor: Descriptor) -> bytes:
        """Return a manifest, index or config, verified by size and digest.

        :raises NotFoundError: the source does not have it.
        :raises IntegrityError: it exceeds `DOCUMENT_LIMIT`, or does not match the descriptor.
        """

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        """Return a binary file with the bytes of a blob, not verified.

        A read may return fewer bytes than requested, as read(2) does.

        :raises NotFoundError: the source does not have the blob.
        :raises IntegrityError: the blob has another size than the descriptor.
        """


@runtime_checkable
class ResumableSource(Protocol):
    """A source that can resume the download of a blob."""

    def resume_blob(self, descriptor: Descriptor, have: Readable) -> BinaryIO:
        """Return a binary file as `Source.open_blob` does, with its first bytes from `have`.

        The request for the remaining bytes is sent after those in `have` have been read.
        """


@runtime_checkable
class SizedSource(Protocol):
    """A source that knows the size of a blob which no document declares (schema 1)."""

    def size_of(self, digest: Digest) -> int:
        """Return the size of a blob in bytes, not verified.

        :raises NotFoundError: the source does not have the blob.
        :raises UnsupportedError: the source does not know the size.
        """


def read_document(source: Source, descriptor: Descriptor, what: str) -> bytes:
    """Return the document that `descriptor` describes, verified; see `Source.document`.

    If the descriptor embeds the bytes, nothing is opened.

    :param what: the source's name for messages.
    :raises IntegrityError: over `DOCUMENT_LIMIT` bytes, or not what `descriptor` describes.
    """
    where = f"{what}: {descriptor.digest}"
    if descriptor.size > DOCUMENT_LIMIT:
        raise IntegrityError(
            f"document too large: {where}: got {descriptor.size} bytes, "
            f"want at most {DOCUMENT_LIMIT}"
        )
    content = descriptor.data
    if content is None:
        with source.open_blob(descriptor) as blob:
            content = b"".join(iter(lambda: blob.read(DOCUMENT_LIMIT), b""))
    descriptor.verify(content, where)
    return content
