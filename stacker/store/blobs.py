"""Blobs by digest, in the layout of OCI images (image-spec image-layout.md).

`BlobStore` writes and reads manifests, configs and indexes, and keeps layer blobs if the user asks
for them.  A blob gets its name by a rename after its verification, so an existing blob is complete.
``index.json`` lists for other programs the images whose blobs are all in the store.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, NotFoundError, UnsupportedError
from stacker.image.digest import Digest, ImageID
from stacker.linux.filesystem import is_temporary, sweep_temporaries, write_atomically

if TYPE_CHECKING:
    from stacker.image.descriptor import Descriptor

INDEX = "index.json"
"""The list of an OCI image layout."""
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


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

    def manifests(self) -> list[Descriptor]:
        """Return the manifests whose config is a blob, too."""
        from stacker.image.descriptor import Descriptor
        from stacker.image.document import DOCUMENT_LIMIT
        from stacker.image.manifest import Manifest, parse_document

        found = []
        for path in sorted(self.root.glob("*/*")):
            size = path.stat().st_size
            if is_temporary(path.name) or not 0 < size <= DOCUMENT_LIMIT:
                continue
            digest = Digest(path.parent.name, path.name)
            with suppress(IntegrityError, NotFoundError, UnsupportedError):
                document = parse_document(self.read(digest), media_type=None, what=f"blob {digest}")
                if isinstance(document, Manifest) and self.has(document.config.digest):
                    found.append(Descriptor(document.media_type, digest, size))
        return found

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

    def publish(self, manifests: Iterable[Descriptor]) -> None:
        """List manifests in ``index.json``, without those that refer to a missing blob.

        Other programs copy each listed image without an error.
        """
        whole = [each for each in manifests if self._is_whole(each)]
        write_list(self.root.parent / INDEX, whole)

    def _is_whole(self, manifest: Descriptor) -> bool:
        from stacker.image.manifest import references

        try:
            found = references(self.read(manifest.digest), f"manifest {manifest.digest}")
        except (IntegrityError, NotFoundError, UnsupportedError):
            return False
        return all(self.has(blob.digest) for blob in found.blobs)


def write_list(path: Path, manifests: Iterable[Descriptor]) -> None:
    """Write a list of manifests as an OCI image index, and flush it to disk."""
    content = {
        "schemaVersion": 2,
        "mediaType": _INDEX_TYPE,
        "manifests": [each.to_json() for each in manifests],
    }
    sweep_temporaries(path.parent, path.name)
    write_atomically(path, json.dumps(content, indent=1).encode(), durable=True)
