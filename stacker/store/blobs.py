"""Blobs by digest, in the layout of OCI images (image-spec image-layout.md).

`BlobStore` writes and reads manifests, configs and indexes, and keeps layer blobs if the user asks
for them.  A blob gets its name by a rename after its verification, so an existing blob is complete.
This module does not interpret the content.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stacker.errors import IntegrityError, NotFoundError
from stacker.image.digest import Digest, ImageID
from stacker.linux.filesystem import write_atomically


@dataclass(frozen=True, slots=True)
class BlobStore:
    """The directory ``blobs/`` of a store."""

    root: Path

    def path(self, digest: Digest | ImageID) -> Path:
        """Return the path of a blob, whether or not it exists."""
        return self.root / digest.algorithm / digest.hex

    def has(self, digest: Digest | ImageID) -> bool:
        """Return whether a blob is in the store."""
        return self.path(digest).exists()

    def read(self, digest: Digest | ImageID) -> bytes:
        """Return the content of a document, and verify its digest.

        :raises NotFoundError: the blob is not in the store.
        :raises IntegrityError: the content on disk has another digest.
        """
        try:
            content = self.path(digest).read_bytes()
        except FileNotFoundError:
            raise NotFoundError(
                f"no such blob in the store: {digest}",
                hint="pull the image again with `stacker pull`",
            ) from None
        found = digest.new_hash()
        found.update(content)
        if found.hexdigest() != digest.hex:
            raise IntegrityError(
                f"damaged blob: {self.path(digest)}: got {found.hexdigest()}, want {digest.hex}",
                hint="pull the image again with `stacker pull`, which rewrites its documents",
            )
        return content

    def write(self, digest: Digest | ImageID, content: bytes) -> None:
        """Write a verified document; replace a damaged copy, keep an identical one."""
        path = self.path(digest)
        try:
            if path.read_bytes() == content:
                return
        except FileNotFoundError:
            pass
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomically(path, content, durable=True)

    def adopt(self, digest: Digest, file: Path) -> None:
        """Rename a verified file to a blob.

        :param file: a file on the filesystem of the store.
        """
        path = self.path(digest)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        file.replace(path)
