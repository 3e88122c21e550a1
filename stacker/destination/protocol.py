"""The role every destination plays.

A destination knows how an image's bytes are kept there; it does not know where they come from,
nor what they mean.  It is a plain value that travels to worker processes by pickle, except one
that must be written in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stacker.events import Transfer
    from stacker.image.descriptor import Descriptor
    from stacker.stream.compression import BlobOpener
    from stacker.stream.verify import ByteProgress


class Destination(Protocol):
    """A place for one image, or one index of images."""

    @property
    def what(self) -> str:
        """How the place is called in messages."""

    @property
    def is_sequential(self) -> bool:
        """Whether one blob must be whole before the next one begins, in this process."""

    def put_blob(
        self,
        descriptor: Descriptor,
        opened: BlobOpener | None,
        *,
        mount_from: Sequence[str] = (),
        report: ByteProgress,
    ) -> Transfer | None:
        """Have a blob there, verified on the way; what is there is not sent.

        :param opened: where its bytes are; ``None`` to see whether it can be had without them.
        :param mount_from: other places, as ``HOST/REPO``, that are known to have it.
        :returns: ``None`` when it is not there, and nothing was to be sent.
        :raises IntegrityError: the bytes are not what the descriptor says.
        """

    def has_document(self, descriptor: Descriptor) -> bool:
        """Return whether a manifest or an index is there, with all that it refers to."""

    def put_document(self, descriptor: Descriptor, content: bytes) -> None:
        """Keep a manifest or an index by its digest; what it refers to is there."""

    def finish(self, root: Descriptor, content: bytes) -> None:
        """Keep the image's manifest or index, and give it the name that was asked for."""
