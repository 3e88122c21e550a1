"""An image in a registry: OCI distribution 1.1, and Docker's Registry HTTP API V2.

A reference comes in; a source goes out, whose blobs are downloaded while the caller reads them.
This module does not handle authentication or retries, and must not know what a layer contains.
Sources: OCI distribution-spec, "Pulling manifests" and "Pulling blobs".
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from stacker.errors import (
    IntegrityError,
    NetworkError,
    NotFoundError,
    UnsupportedError,
    shell_word,
)
from stacker.image import mediatype
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest
from stacker.image.document import DOCUMENT_LIMIT, quoted
from stacker.image.location import REGISTRY_TRANSPORT
from stacker.image.manifest import type_of
from stacker.image.schema1 import is_schema1, signed_payload
from stacker.registry.client import make_client
from stacker.registry.download import BlobDownload, total_size
from stacker.registry.foreign_layers import ForeignLayer
from stacker.registry.http.response import TransferInterruptedError
from stacker.registry.mirrors import Mirrors
from stacker.registry.ranges import open_ranges
from stacker.source.protocol import read_document

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from stacker.image.reference import Reference
    from stacker.registry.client import Client
    from stacker.registry.http.response import Response
    from stacker.registry.ranges import FetchRange, ParallelRanges
    from stacker.registry.settings import RegistryAccess
    from stacker.stream.compression import Readable

_DOCUMENTS = mediatype.MANIFESTS | mediatype.INDEXES
# Indexes first: some registries serve the first type that they have.
_ACCEPT = ", ".join(
    (
        *(mediatype.OCI_INDEX, mediatype.DOCKER_LIST),
        *(mediatype.OCI_MANIFEST, mediatype.DOCKER_MANIFEST),
        *(mediatype.SCHEMA1_SIGNED_MANIFEST, mediatype.SCHEMA1_MANIFEST),
    )
)


@dataclass(frozen=True, slots=True)
class RegistryImage:
    """An image or an index in a registry; see `Source`.

    :param chosen: the descriptor of the manifest or index, which it embeds.
    :param read: a cache of other documents, which callers read more than once.
    """

    client: Client | Mirrors
    chosen: Descriptor
    names: tuple[str, ...]
    read: dict[Digest, bytes] = field(default_factory=dict, hash=False, repr=False, compare=False)

    def root(self) -> Descriptor:
        """Return the descriptor of the chosen manifest or index."""
        return self.chosen

    def document(self, descriptor: Descriptor) -> bytes:
        """Return a document, verified; see `Source`."""
        if descriptor.data is None and descriptor.digest in self.read:
            content = self.read[descriptor.digest]
            descriptor.verify(content, f"{self.client.what}: {descriptor.digest}")
            return content
        content = read_document(self, descriptor, self.client.what)
        self.read[descriptor.digest] = content
        return content

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        """Return a file with the bytes of a blob; see `Source`.

        An interrupted transfer resumes, as often as `Timeouts` allows.

        :raises NetworkError: the registry cannot be reached, or interrupts too often.
        :raises AuthenticationError: the registry refuses the request or the credentials.
        """
        return self._open(descriptor, None)

    def size_of(self, digest: Digest) -> int:
        """Return the size of a blob in bytes, as the registry declares it; see `SizedSource`."""
        what = f"{self.client.what}@{digest}"
        response = self.client.get(f"blobs/{digest}", {"Range": "bytes=0-0"}, what)
        size = total_size(response)
        response.close()
        if size is None:
            raise UnsupportedError(f"unknown size: {what}: got a response without a size, want one")
        return size

    def resume_blob(self, descriptor: Descriptor, have: Readable) -> BinaryIO:
        """Return a file with the bytes of a blob; see `ResumableSource`."""
        return self._open(descriptor, have)

    def _open(self, descriptor: Descriptor, have: Readable | None) -> BinaryIO:
        what = f"{self.client.what}@{descriptor.digest}"
        fetch, size = self._fetch(descriptor, what), descriptor.size
        download = BlobDownload(
            lambda offset: fetch(offset, size),
            size,
            what=what,
            timeouts=self.client.access.timeouts,
            have=have,
            next_mirror=self.client.next_mirror if isinstance(self.client, Mirrors) else None,
            split=None if _has_urls(descriptor) else lambda start: self._split(fetch, start, size),
        )
        return cast("BinaryIO", download)

    def _fetch(self, descriptor: Descriptor, what: str) -> FetchRange:
        """Return a function that requests a range of a blob or of a document."""
        is_document = descriptor.media_type in _DOCUMENTS
        path = f"{'manifests' if is_document else 'blobs'}/{descriptor.digest}"
        accept = descriptor.media_type if is_document else "*/*"
        foreign = None
        if _has_urls(descriptor):
            allowed = self.client.access.allow_foreign
            foreign = ForeignLayer(self.client, descriptor, is_allowed=allowed, what=what)

        def request(start: int, end: int) -> Response:
            headers = {"Accept": accept}
            if start or end < descriptor.size:
                headers["Range"] = f"bytes={start}-{end - 1}"
            if foreign:
                return foreign.get(path, headers)
            response = self.client.get(path, headers, what)
            if is_document:
                _check_type(response, descriptor.media_type, what)
            return response

        return request

    def _split(self, fetch: FetchRange, start: int, size: int) -> ParallelRanges | None:
        access = self.client.access
        part, count = access.range_bytes, access.parallel_ranges
        return open_ranges(fetch, start, size, part=part, count=count, timeouts=access.timeouts)


def _has_urls(descriptor: Descriptor) -> bool:
    return descriptor.is_foreign and bool(descriptor.urls)


@contextmanager
def open_registry_image(reference: Reference, access: RegistryAccess) -> Iterator[RegistryImage]:
    """Yield the image that `reference` names, and close the connections at the end.

    :raises NotFoundError: no such image.
    :raises AuthenticationError: the registry refuses the request or the credentials.
    :raises NetworkError: the registry cannot be reached.
    :raises IntegrityError: the manifest is malformed, or does not match the reference's digest.
    :raises UnsupportedError: the manifest has an unsupported format.
    :raises UsageError: registries.conf blocks the registry, or has a malformed location.
    """
    client = _client(reference, access)
    try:
        yield RegistryImage(client, _root(client, reference), (str(reference),))
    finally:
        client.close()


def _client(reference: Reference, access: RegistryAccess) -> Client | Mirrors:
    addresses = access.registries.addresses(reference)
    if len(addresses) > 1:
        return Mirrors(addresses, access, reference.name)
    return make_client(addresses[0], access)


def _root(client: Client | Mirrors, reference: Reference) -> Descriptor:
    """Return the descriptor of the manifest, which it embeds.

    The digest is computed, since the registry's Docker-Content-Digest proves nothing.  The digest
    of schema 1 is over the signed payload, and only that is embedded.
    """
    what = str(reference)
    try:
        raw, announced = _manifest(client, f"manifests/{reference.target}", what)
    except NotFoundError:
        if isinstance(client, Mirrors):  # the message names each server
            raise
        raise _no_manifest(reference) from None
    is_legacy = announced is None and is_schema1(raw, what)
    if is_legacy:
        raw = signed_payload(raw, what)
    if reference.digest is not None:
        Descriptor("", reference.digest, len(raw)).verify(raw, what)
    digest = reference.digest or Digest.of(raw)
    if is_legacy:
        return Descriptor(mediatype.SCHEMA1_MANIFEST, digest, len(raw), data=raw)
    return Descriptor(type_of(raw, media_type=announced, what=what), digest, len(raw), data=raw)


def _no_manifest(reference: Reference) -> NotFoundError:
    if reference.digest is not None:
        return NotFoundError(f"no such manifest: {reference.name}: {reference.digest}")
    tags = shell_word(f"{REGISTRY_TRANSPORT}{reference.name}")
    return NotFoundError(
        f"no such tag: {reference.name}: {reference.tag!r}",
        hint=f"`stacker tags {tags}` lists the tags, if the repository exists",
    )


def _manifest(client: Client | Mirrors, path: str, what: str) -> tuple[bytes, str | None]:
    """Return a manifest of unknown size and its Content-Type, None for an unknown type."""
    timeouts = client.access.timeouts
    attempt = 0
    while True:
        attempt += 1
        response = client.get(path, {"Accept": _ACCEPT}, what)
        try:
            raw = response.read_all(DOCUMENT_LIMIT)
        except TransferInterruptedError as error:
            if attempt < timeouts.attempts:
                timeouts.sleep(timeouts.pause(attempt))
            elif isinstance(client, Mirrors) and client.next_mirror():
                attempt = 0
            else:
                raise NetworkError(error.message) from error
            continue
        announced = _type(response)
        return raw, announced if announced in _DOCUMENTS else None


def _check_type(response: Response, media_type: str, what: str) -> None:
    """Check that a document's Content-Type is the media type of its descriptor."""
    announced = _type(response)
    if announced in _DOCUMENTS and announced != media_type:
        response.close()
        raise IntegrityError(
            f"wrong media type: {what}: got {quoted(announced)}, want {quoted(media_type)}"
        )


def _type(response: Response) -> str:
    return response.header("Content-Type").partition(";")[0].strip().lower()
