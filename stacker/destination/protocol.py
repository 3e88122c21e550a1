"""The interface of a destination.

A destination stores blobs and documents under their digests; it does not know where they come from,
or what they mean.  It is a plain value that can be pickled, unless it is sequential.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from stacker.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stacker.events import Transfer
    from stacker.image.descriptor import Descriptor
    from stacker.stream.compression import BlobOpener
    from stacker.stream.verify import ByteProgress


class Destination(Protocol):
    """Where one image, or one index of images, is written to."""

    @property
    def what(self) -> str:
        """The destination's name for messages."""

    @property
    def is_sequential(self) -> bool:
        """Whether blobs must be written one after another, in this process."""

    @property
    def accepts_indexes(self) -> bool:
        """Whether the root may be an index; `refused_index` is the error otherwise."""

    def put_blob(
        self,
        descriptor: Descriptor,
        opener: BlobOpener | None,
        *,
        mount_from: Sequence[str] = (),
        report: ByteProgress,
    ) -> Transfer | None:
        """Write a blob and verify it, unless the destination already has it.

        :param opener: opens the blob; None to find out only whether the bytes are needed.
        :param mount_from: repositories that have the blob, as ``HOST/REPO``.
        :param report: called with the bytes written so far.
        :returns: None if the destination lacks the blob and `opener` is None.
        :raises IntegrityError: the bytes do not match the descriptor.
        """

    def has_document(self, descriptor: Descriptor) -> bool:
        """Return whether the destination has a manifest or an index with all that it refers to."""

    def put_document(self, descriptor: Descriptor, content: bytes) -> None:
        """Write a manifest or an index under its digest, after all that it refers to."""

    def finish(self, root: Descriptor, content: bytes) -> None:
        """Write the image's manifest or index, and give it the destination's name."""


def refused_index(destination: Destination) -> UsageError:
    """Return the error for an index that a destination cannot hold."""
    return UsageError(
        f"cannot write to a docker archive: {destination.what}: got an index, want one image",
        hint="choose one image with `stacker copy --platform`, or write oci-archive:FILE",
    )
