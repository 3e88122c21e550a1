"""Blobs by digest, as an OCI image layout keeps them (image-spec image-layout.md).

Documents are always kept; layers only on request.  A blob that is there is whole: it gets its
name by a rename after it was verified.
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
        """Give the place of a blob, there or not."""
        return self.root / digest.algorithm / digest.hex

    def has(self, digest: Digest | ImageID) -> bool:
        """Say whether a blob is here."""
        return self.path(digest).exists()

    def read(self, digest: Digest | ImageID) -> bytes:
        """Give the content of a document, verified again.

        :raises NotFoundError: it is not here.
        :raises IntegrityError: the disk gives other bytes than were written.
        """
        try:
            content = self.path(digest).read_bytes()
        except FileNotFoundError:
            raise NotFoundError(f"no such blob in the store: {digest}") from None
        found = digest.new_hash()
        found.update(content)
        if found.hexdigest() != digest.hex:
            raise IntegrityError(
                f"damaged blob: {self.path(digest)}: got {found.hexdigest()}, want {digest.hex}",
                hint="pull the image again: that writes its documents anew",
            )
        return content

    def write(self, digest: Digest | ImageID, content: bytes) -> None:
        """Keep a verified document; one that the disk has damaged is written anew."""
        path = self.path(digest)
        try:
            if path.read_bytes() == content:
                return
        except FileNotFoundError:
            pass
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomically(path, content)

    def adopt(self, digest: Digest, file: Path) -> None:
        """Take over ``file``, on the same filesystem and verified, as the blob ``digest``."""
        path = self.path(digest)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        file.replace(path)
