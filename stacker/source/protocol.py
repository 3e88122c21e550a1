"""The role every source plays, and how a document is taken from one.

A source knows where an image's bytes are; it does not know what they unpack to.  It is a plain
value: what it parsed at opening are its fields, so it travels to worker processes by pickle.
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
    """One image, or one index of images, somewhere."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the image is called there, the best name first; may be empty."""

    def root(self) -> Descriptor:
        """Return the manifest or index that was asked for."""

    def document(self, descriptor: Descriptor) -> bytes:
        """Return a manifest, index or config, checked against size and digest.

        :raises NotFoundError: it is not there.
        :raises IntegrityError: it is over `DOCUMENT_LIMIT`, or not what the descriptor says.
        """

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        """Open a blob: a binary file at its first byte that ends with its last, unverified.

        A read may give fewer bytes than asked for, as read(2) does.

        :raises NotFoundError: it is not there.
        :raises IntegrityError: its size is not the descriptor's.
        """


@runtime_checkable
class ResumableSource(Protocol):
    """A source whose blobs take time to come, so that what came before is worth keeping."""

    def resume_blob(self, descriptor: Descriptor, have: Readable) -> BinaryIO:
        """Open a blob as `Source.open_blob` does; its first bytes are read from `have`.

        The source is asked for what lies behind them when they have been read.
        """


@runtime_checkable
class SizedSource(Protocol):
    """A source of images whose documents do not say how large their layers are."""

    def size_of(self, digest: Digest) -> int:
        """Return how many bytes a blob has; only its digest proves it.

        :raises NotFoundError: it is not there.
        :raises UnsupportedError: nobody says.
        """


def read_document(source: Source, descriptor: Descriptor, what: str) -> bytes:
    """Return the document behind `descriptor`, checked; what every `Source.document` does.

    Bytes that came embedded in the descriptor are used, and nothing is opened.

    :param what: the source's name for messages.
    :raises IntegrityError: over `DOCUMENT_LIMIT` bytes, or not what the descriptor says.
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
