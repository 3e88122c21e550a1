"""Copy an image, or an index with its images, from a source to a destination.

A source, a destination and the descriptor of a manifest or index come in; a `Copied` goes out.
`copy_between` opens both first.  This module must not unpack a layer or use the store.
Source: distribution-spec 1.1, "Pushing Manifests": a registry may reject a manifest whose blobs it
does not have.  So blobs go first, then manifests, then indexes, and the tag goes last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stacker.destination.protocol import Destination, refused_index
from stacker.errors import IntegrityError
from stacker.events import BlobsFound, Emit, Transfer
from stacker.image import mediatype
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest
from stacker.image.location import REGISTRY_TRANSPORT, is_in_registry, repository_of
from stacker.image.manifest import references
from stacker.jobs.send_blob import SendTask, send_blobs
from stacker.source.protocol import Source
from stacker.tar.limits import ARCHIVE_RATIO

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from stacker.image.platform import Platform
    from stacker.registry.settings import RegistryAccess

_MAX_DOCUMENTS = 1_000
_MAX_DEPTH = 8  # of nested indexes
Repositories = Callable[[Digest], tuple[str, ...]]
"""Returns the repositories, as ``HOST/REPO``, that are known to have a blob."""


@dataclass(frozen=True, slots=True)
class Copied:
    """The result of a copy or a push.

    :param root: the manifest or index that was copied.
    :param documents: the number of manifests and indexes, including the root.
    :param transfers: how many blobs the destination got in each way.
    :param foreign: layers that were not sent, see `is_distributable`.
    """

    root: Descriptor
    documents: int = 0
    transfers: Mapping[Transfer, int] = field(default_factory=dict, hash=False)
    foreign: tuple[Descriptor, ...] = ()


@dataclass(frozen=True, slots=True)
class _Document:
    descriptor: Descriptor
    content: bytes
    blobs: tuple[Descriptor, ...]


def copy_image(
    source: Source,
    destination: Destination,
    *,
    jobs: int,
    emit: Emit,
    root: Descriptor | None = None,
    repositories: Repositories = lambda _: (),
    tagged: bool = True,
) -> Copied:
    """Copy a manifest or an index, and all that it refers to, byte for byte.

    :param jobs: the number of blobs to send at the same time.
    :param emit: receives `BlobsFound`, `BlobProgress` and `BlobStored`.
    :param root: the manifest or index to copy; ``None`` for the root of the source.
    :param repositories: where a registry may mount blobs from.
    :param tagged: give the root the destination's tag; otherwise only its digest names it.
    :raises UsageError: the root is an index, which the destination cannot hold.
    :raises IntegrityError: a document or a blob differs from its descriptor.
    """
    *documents, last = _documents(source, root or source.root())
    if last.descriptor.media_type in mediatype.INDEXES and not destination.accepts_indexes:
        raise refused_index(destination)
    unique = {blob.digest: blob for document in (*documents, last) for blob in document.blobs}
    blobs = [blob for blob in unique.values() if is_distributable(blob)]
    emit(BlobsFound(tuple(blobs)))
    tasks = [SendTask(source, destination, blob, repositories(blob.digest)) for blob in blobs]
    transfers: Counter[Transfer] = Counter()
    for stored in send_blobs(tasks, is_sequential=destination.is_sequential, jobs=jobs, emit=emit):
        emit(stored)
        transfers[stored.transfer] += 1
    for document in documents:
        destination.put_document(document.descriptor, document.content)
    put_root = destination.finish if tagged else destination.put_document
    put_root(last.descriptor, last.content)
    foreign = tuple(blob for blob in unique.values() if not is_distributable(blob))
    return Copied(last.descriptor, len(documents) + 1, dict(transfers), foreign)


def copy_between(
    source: str,
    destination: str,
    *,
    platform: Platform | None,
    must_match: bool,
    access: RegistryAccess,
    spool: Path,
    umask: int,
    jobs: int,
    emit: Emit,
    archive_ratio: int = ARCHIVE_RATIO,
    destination_access: RegistryAccess | None = None,
    stdout: BinaryIO | None = None,
) -> Copied:
    """Copy an image, or an index with its images, between two locations.

    :param source: a location as for `stacker pull`.
    :param destination: a location as for `stacker push`.
    :param platform: which image of an index to copy; ``None`` for the whole index.
    :param must_match: refuse an image for another platform, even if it is the only one.
    :param spool: the directory for the temporary file of a compressed archive.
    :param umask: the permissions that new files do not get.
    :param archive_ratio: maximum decompressed bytes per byte of a compressed archive.
    :param destination_access: how to reach the destination; ``None`` for ``access``.
    :param stdout: see `open_destination`.
    """
    from stacker.destination.open import open_destination
    from stacker.source.identify import complete_destination, complete_source
    from stacker.source.open import open_source
    from stacker.source.resolve import resolve

    source, destination = complete_source(source), complete_destination(destination)
    with open_source(source, spool=spool, access=access, archive_ratio=archive_ratio) as opened:
        # The source's own name, because the user may have written a short name.
        is_registry = is_in_registry(source)
        name = f"{REGISTRY_TRANSPORT}{opened.names[0]}" if is_registry else ""
        repository = repository_of(name)
        root = resolve(opened, platform, must_match=must_match) if platform else opened.root()
        with open_destination(
            destination,
            access=destination_access or access,
            umask=umask,
            stdout=stdout,
            image_name=_image_name(source, opened),
        ) as target:
            return copy_image(
                opened,
                target,
                root=root,
                jobs=jobs,
                emit=emit,
                repositories=lambda _: (repository,) if repository else (),
            )


def _image_name(text: str, source: Source) -> str:
    """Return the name of the image in a source; empty for a layout, which has only tags."""
    has_names = is_in_registry(text) or text.startswith("docker-archive:")
    return source.names[0] if has_names and source.names else ""


def is_distributable(blob: Descriptor) -> bool:
    """Return False for a foreign layer with URLs, which must stay at these URLs.

    Source: image-spec layer.md, "Non-Distributable Layers".
    """
    return not (blob.is_foreign and blob.urls)


def _documents(source: Source, root: Descriptor) -> list[_Document]:
    """Return `root` and the documents below it, each after those that it refers to."""
    found: dict[Digest, _Document] = {}

    def visit(descriptor: Descriptor, depth: int) -> None:
        if descriptor.digest in found:
            return
        if depth > _MAX_DEPTH or len(found) + depth >= _MAX_DOCUMENTS:
            raise IntegrityError(
                f"index too large: {root.digest}: got more than {_MAX_DOCUMENTS} documents or "
                f"{_MAX_DEPTH} nested indexes, want fewer"
            )
        content = source.document(descriptor)
        refers_to = references(content, f"{descriptor.digest}")
        for document in refers_to.documents:
            visit(document, depth + 1)
        found[descriptor.digest] = _Document(descriptor, content, refers_to.blobs)

    visit(root, 0)
    return list(found.values())
