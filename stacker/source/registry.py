"""An image in a registry: OCI distribution 1.1, and Docker's registry HTTP API V2.

In comes a reference, out comes a source whose blobs are fetched while they are read.  How the
registry is talked to, and what an image unpacks to, is not known here.
Sources: OCI distribution-spec, "Pulling manifests" and "Pulling blobs".
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from stacker.errors import IntegrityError, NetworkError, NotFoundError
from stacker.image import mediatype
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest
from stacker.image.document import DOCUMENT_LIMIT
from stacker.image.manifest import parse_document
from stacker.image.wording import quoted
from stacker.source.answer import BrokenOffError
from stacker.source.client import Client, base_of
from stacker.source.credentials import find_credentials
from stacker.source.protocol import read_document
from stacker.source.transfer import Transfer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from stacker.image.reference import Reference
    from stacker.source.access import Access
    from stacker.source.answer import Answer

_DOCUMENTS = mediatype.MANIFESTS | mediatype.INDEXES
# An index first, for registries that take the first they can serve.
_ACCEPT = ", ".join(
    (mediatype.OCI_INDEX, mediatype.DOCKER_LIST, mediatype.OCI_MANIFEST, mediatype.DOCKER_MANIFEST)
)


@dataclass(frozen=True, slots=True)
class Registry:
    """An image, or an index of images, in a registry; see `Source`.

    The manifest that was asked for is embedded in `chosen`; `read` has the other documents that
    came meanwhile, which are asked for more than once.
    """

    client: Client
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
        """Open a blob; see `Source`.  It goes on where it broke off, within `Patience`.

        :raises NetworkError: the registry cannot be reached, or breaks off too often.
        :raises AuthenticationError: it wants credentials, or better ones.
        """
        is_document = descriptor.media_type in _DOCUMENTS
        path = f"{'manifests' if is_document else 'blobs'}/{descriptor.digest}"
        accept = descriptor.media_type if is_document else "*/*"
        what = f"{self.client.what}@{descriptor.digest}"

        def fetch(offset: int) -> Answer:
            headers = {"Accept": accept}
            if offset:
                headers["Range"] = f"bytes={offset}-{descriptor.size - 1}"
            answer = self.client.get(path, headers, what)
            if is_document:
                _check_type(answer, descriptor.media_type, what)
            return answer

        try:
            transfer = Transfer(
                fetch, descriptor.size, what=what, patience=self.client.access.patience
            )
        except NotFoundError as error:
            raise _with_urls(error, descriptor) from None
        return cast("BinaryIO", transfer)


@contextmanager
def open_registry(reference: Reference, access: Access) -> Iterator[Registry]:
    """Give the image that `reference` names; its connections are closed at the end.

    :raises NotFoundError: no such image.
    :raises AuthenticationError: the registry wants credentials, or better ones.
    :raises NetworkError: it cannot be reached.
    :raises IntegrityError: the manifest is not what the reference's digest says, or malformed.
    :raises UnsupportedError: the manifest has a form this program does not read.
    """
    credentials = find_credentials(access.auth_files, reference.host, reference.repository)
    client = Client(
        base_of(reference.host, access, reference.place),
        reference.repository,
        access=access,
        credentials=credentials,
    )
    try:
        yield Registry(client, _root(client, reference), (str(reference),))
    finally:
        client.close()


def _root(client: Client, reference: Reference) -> Descriptor:
    """Return the manifest, embedded in its own descriptor.

    Its digest is computed: what the registry says of it (Docker-Content-Digest) proves nothing.
    """
    what = str(reference)
    raw, announced = _manifest(client, f"manifests/{reference.target}", what)
    if reference.digest is not None:
        Descriptor("", reference.digest, len(raw)).verify(raw, what)
    document = parse_document(raw, media_type=announced, what=what)
    digest = reference.digest or Digest.of(raw)
    return Descriptor(document.media_type, digest, len(raw), data=raw)


def _manifest(client: Client, path: str, what: str) -> tuple[bytes, str | None]:
    """Return a manifest of unknown size, and the type it is announced with if that is one."""
    patience = client.access.patience
    attempt = 0
    while True:
        attempt += 1
        answer = client.get(path, {"Accept": _ACCEPT}, what)
        try:
            raw = answer.whole(DOCUMENT_LIMIT)
        except BrokenOffError as error:
            if attempt == patience.attempts:
                raise NetworkError(error.message) from error
            patience.wait(patience.pause(attempt))
            continue
        announced = _type(answer)
        return raw, announced if announced in _DOCUMENTS else None


def _check_type(answer: Answer, media_type: str, what: str) -> None:
    """Check that a registry announces a document as what its descriptor says it is."""
    announced = _type(answer)
    if announced in _DOCUMENTS and announced != media_type:
        answer.close()
        raise IntegrityError(
            f"wrong media type: {what}: got {quoted(announced)}, want {quoted(media_type)}"
        )


def _type(answer: Answer) -> str:
    return answer.header("Content-Type").partition(";")[0].strip().lower()


def _with_urls(error: NotFoundError, descriptor: Descriptor) -> NotFoundError:
    if not (descriptor.is_foreign and descriptor.urls):
        return error
    listed = ", ".join(map(quoted, descriptor.urls))
    return NotFoundError(error.message, hint=f"a foreign layer: it is to be had from {listed}")
