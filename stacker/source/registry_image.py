"""An image in a registry: OCI distribution 1.1, and Docker's registry HTTP API V2.

In comes a reference, out comes a source whose blobs are fetched while they are read.  How the
registry is talked to, and what an image unpacks to, is not known here.
Sources: OCI distribution-spec, "Pulling manifests" and "Pulling blobs".
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from stacker.errors import IntegrityError, NetworkError, UnsupportedError
from stacker.image import mediatype
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest
from stacker.image.document import DOCUMENT_LIMIT, quoted
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
# An index first, for registries that take the first they can serve.
_ACCEPT = ", ".join(
    (
        *(mediatype.OCI_INDEX, mediatype.DOCKER_LIST),
        *(mediatype.OCI_MANIFEST, mediatype.DOCKER_MANIFEST),
        *(mediatype.SCHEMA1_SIGNED_MANIFEST, mediatype.SCHEMA1_MANIFEST),
    )
)


@dataclass(frozen=True, slots=True)
class RegistryImage:
    """An image, or an index of images, in a registry; see `Source`.

    The manifest that was asked for is embedded in `chosen`; `read` has the other documents that
    came meanwhile, which are asked for more than once.
    """

    client: Client | Mirrors
    chosen: Descriptor
    names: tuple[str, ...]
    read: dict[Digest, bytes] = field(default_factory=dict, hash=False, repr=False, compare=False)

    def root(self) -> Descriptor:
        """Return the manifest or index that was asked for."""
        return self.chosen

    def document(self, descriptor: Descriptor) -> bytes:
        """Return a document, checked; see `Source`."""
        if descriptor.data is None and descriptor.digest in self.read:
            content = self.read[descriptor.digest]
            descriptor.verify(content, f"{self.client.what}: {descriptor.digest}")
            return content
        content = read_document(self, descriptor, self.client.what)
        self.read[descriptor.digest] = content
        return content

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        """Open a blob; see `Source`.  It goes on where it broke off, within `Timeouts`.

        :raises NetworkError: the registry cannot be reached, or breaks off too often.
        :raises AuthenticationError: it wants credentials, or better ones.
        """
        return self._opened(descriptor, None)

    def size_of(self, digest: Digest) -> int:
        """Return how many bytes the registry says a blob has; see `SizedSource`."""
        what = f"{self.client.what}@{digest}"
        response = self.client.get(f"blobs/{digest}", {"Range": "bytes=0-0"}, what)
        size = total_size(response)
        response.close()
        if size is None:
            raise UnsupportedError(f"unknown size: {what}: got an response that does not say it")
        return size

    def resume_blob(self, descriptor: Descriptor, have: Readable) -> BinaryIO:
        """Open a blob of which `have` has the first bytes; see `ResumableSource`."""
        return self._opened(descriptor, have)

    def _opened(self, descriptor: Descriptor, have: Readable | None) -> BinaryIO:
        is_document = descriptor.media_type in _DOCUMENTS
        path = f"{'manifests' if is_document else 'blobs'}/{descriptor.digest}"
        accept = descriptor.media_type if is_document else "*/*"
        what = f"{self.client.what}@{descriptor.digest}"

        foreign = None
        if descriptor.is_foreign and descriptor.urls:
            allowed = self.client.access.allow_foreign
            foreign = ForeignLayer(self.client, descriptor, is_allowed=allowed, what=what)

        def ask(start: int, end: int) -> Response:
            headers = {"Accept": accept}
            if start or end < descriptor.size:
                headers["Range"] = f"bytes={start}-{end - 1}"
            if foreign:
                return foreign.get(path, headers)
            response = self.client.get(path, headers, what)
            if is_document:
                _check_type(response, descriptor.media_type, what)
            return response

        transfer = BlobDownload(
            lambda offset: ask(offset, descriptor.size),
            descriptor.size,
            what=what,
            timeouts=self.client.access.timeouts,
            have=have,
            next_mirror=self.client.next_mirror if isinstance(self.client, Mirrors) else None,
            split=None if foreign else lambda start: self._parts(ask, start, descriptor.size),
        )
        return cast("BinaryIO", transfer)

    def _parts(self, ask: FetchRange, start: int, size: int) -> ParallelRanges | None:
        access = self.client.access
        return open_ranges(
            ask,
            start,
            size,
            part=access.range_bytes,
            count=access.parallel_ranges,
            timeouts=access.timeouts,
        )


@contextmanager
def open_registry_image(reference: Reference, access: RegistryAccess) -> Iterator[RegistryImage]:
    """Give the image that `reference` names; its connections are closed at the end.

    :raises NotFoundError: no such image.
    :raises AuthenticationError: the registry wants credentials, or better ones.
    :raises NetworkError: it cannot be reached.
    :raises IntegrityError: the manifest is not what the reference's digest says, or is no manifest.
    :raises UnsupportedError: the manifest has a form this program does not read.
    :raises UsageError: `RegistryAccess.conf` forbids it, or has a malformed location.
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
    """Return the manifest, embedded in its own descriptor.

    Its digest is computed: what the registry says of it (Docker-Content-Digest) proves nothing.
    That of a signed one of schema 1 is over what was signed, and nothing else is embedded.
    """
    what = str(reference)
    raw, announced = _manifest(client, f"manifests/{reference.target}", what)
    is_old = announced is None and is_schema1(raw, what)
    if is_old:
        raw = signed_payload(raw, what)
    if reference.digest is not None:
        Descriptor("", reference.digest, len(raw)).verify(raw, what)
    digest = reference.digest or Digest.of(raw)
    if is_old:
        return Descriptor(mediatype.SCHEMA1_MANIFEST, digest, len(raw), data=raw)
    return Descriptor(type_of(raw, media_type=announced, what=what), digest, len(raw), data=raw)


def _manifest(client: Client | Mirrors, path: str, what: str) -> tuple[bytes, str | None]:
    """Return a manifest of unknown size, and the type it is announced with if that is one."""
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
    """Check that a registry announces a document as what its descriptor says it is."""
    announced = _type(response)
    if announced in _DOCUMENTS and announced != media_type:
        response.close()
        raise IntegrityError(
            f"wrong media type: {what}: got {quoted(announced)}, want {quoted(media_type)}"
        )


def _type(response: Response) -> str:
    return response.header("Content-Type").partition(";")[0].strip().lower()
