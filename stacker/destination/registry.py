"""Push into a repository of a registry.

Blobs and documents come in; requests to the registry go out.  `stacker.registry.upload` sends a
single blob.
Source: OCI distribution-spec 1.1, "Push".
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from stacker.errors import (
    AuthenticationError,
    IntegrityError,
    NetworkError,
    NotFoundError,
    UsageError,
)
from stacker.events import Transfer
from stacker.image.document import quoted
from stacker.image.reference import Reference
from stacker.registry.client import connected_client, status_error
from stacker.registry.upload import CHUNK_BYTES, SeekableBlob, Upload, exists

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stacker.image.descriptor import Descriptor
    from stacker.registry.client import Client
    from stacker.registry.http.response import Response
    from stacker.registry.settings import RegistryAccess
    from stacker.stream.compression import BlobOpener
    from stacker.stream.verify import ByteProgress

_STORED = (200, 201, 202)


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository and a tag to push to; see `Destination`.

    :param chunk_bytes: bytes per upload request; see `stacker.registry.upload.CHUNK_BYTES`.
    """

    client: Client
    reference: Reference
    chunk_bytes: int = CHUNK_BYTES

    @property
    def what(self) -> str:
        """The reference."""
        return str(self.reference)

    @property
    def is_sequential(self) -> bool:
        """Return False: blobs may be uploaded in parallel."""
        return False

    @property
    def accepts_indexes(self) -> bool:
        """Return True."""
        return True

    def put_blob(
        self,
        descriptor: Descriptor,
        opener: BlobOpener | None,
        *,
        mount_from: Sequence[str] = (),
        report: ByteProgress,
    ) -> Transfer | None:
        """Upload a blob, or mount it from another repository; see `Destination`."""
        if exists(self.client, descriptor):
            return Transfer.PRESENT
        upload = Upload(self.client, descriptor, chunk_bytes=self.chunk_bytes)
        started = self._mount(upload, descriptor, mount_from)
        if started is not None and started.status == 201:
            return Transfer.MOUNTED
        if opener is None:
            if started is not None:
                upload.cancel(started)
            return None
        with closing(SeekableBlob(descriptor, opener)) as blob:
            upload.send(blob, started, report)
        return Transfer.SENT

    def has_document(self, descriptor: Descriptor) -> bool:
        """Return whether the repository has a document; see `Destination`."""
        return exists(self.client, descriptor, "manifests")

    def put_document(self, descriptor: Descriptor, content: bytes) -> None:
        """Push a document under its digest; see `Destination`."""
        self._put(str(descriptor.digest), descriptor, content)

    def finish(self, root: Descriptor, content: bytes) -> None:
        """Push the manifest or index under the tag; see `Destination`."""
        self._put(self.reference.tag, root, content)

    def _mount(
        self, upload: Upload, descriptor: Descriptor, mount_from: Sequence[str]
    ) -> Response | None:
        """Start an upload that mounts the blob: status 201 if mounted, 202 to upload it.

        Source: distribution-spec, "Mounting a blob from another repository".
        """
        for repository in self._siblings(mount_from):
            try:
                return upload.start(
                    "?" + urlencode({"mount": str(descriptor.digest), "from": repository})
                )
            except (AuthenticationError, NetworkError, NotFoundError):
                return None  # no access to the other repository, which an upload does not need
        return None

    def _siblings(self, mount_from: Sequence[str]) -> Iterator[str]:
        """Yield those of the repositories that belong to this registry."""
        for name in mount_from:
            try:
                found = self.client.access.registries.primary(Reference.parse(name)).reference
            except UsageError:
                continue  # registries.conf blocks it
            if found.host == self.reference.host and found.repository != self.reference.repository:
                yield found.repository

    def _put(self, name: str, descriptor: Descriptor, content: bytes) -> None:
        what = f"{self.reference.name}:{name}" if name == self.reference.tag else self.what
        response = self.client.request(
            "PUT",
            self.client.url(f"manifests/{name}"),
            {"Content-Type": descriptor.media_type, "Content-Length": str(len(content))},
            content,
        )
        if response.status not in _STORED:
            raise status_error(response, what, 201)
        response.drain()
        stored = response.header("Docker-Content-Digest")
        if stored and stored != str(descriptor.digest):
            raise IntegrityError(
                f"wrong digest stored: {what}: got {quoted(stored)}, want {descriptor.digest}"
            )


@contextmanager
def open_repository(reference: Reference, access: RegistryAccess) -> Iterator[Repository]:
    """Yield the repository that `reference` names, and close the connections at the end.

    :raises NetworkError: the registry cannot be reached.
    :raises UsageError: registries.conf blocks the registry, or has a malformed location.
    """
    address = access.registries.primary(reference)
    with connected_client(address, access, actions="pull,push") as client:
        yield Repository(client, address.reference)
