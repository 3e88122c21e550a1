"""OCI image layouts, in a directory or in an archive.

In comes a tree of files and the tag that somebody wrote, out comes a source.  How the files
are stored is not known here.
Source: image-spec image-layout.md; annotations.md for ``org.opencontainers.image.ref.name``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, NotFoundError, UnsupportedError
from stacker.image import mediatype
from stacker.image.document import parse_object, quoted, required
from stacker.image.manifest import Index, parse_document
from stacker.image.selection import is_image, not_found, numbered, several
from stacker.source.files import open_blob_file, read_document_file
from stacker.source.protocol import read_document

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

    from stacker.image.descriptor import Descriptor
    from stacker.source.files import FileTree

_MARKER = "oci-layout"
_VERSION = "1.0.0"
# The second one is containerd's and Docker's: they write the tag alone into the first.
_REF_NAME = "org.opencontainers.image.ref.name"
_IMAGE_NAME = "io.containerd.image.name"


@dataclass(frozen=True, slots=True)
class Layout:
    """An image, or an index of images, in an OCI image layout; see `Source`."""

    files: FileTree
    chosen: Descriptor
    names: tuple[str, ...]

    def root(self) -> Descriptor:
        """Return the manifest or index that was asked for."""
        return self.chosen

    def document(self, descriptor: Descriptor) -> bytes:
        """Return a document, checked; see `Source`."""
        return read_document(self, descriptor, self.files.what)

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        """Open a blob; see `Source`."""
        digest = descriptor.digest
        return open_blob_file(self.files, f"blobs/{digest.algorithm}/{digest.hex}", descriptor)


def open_layout(files: FileTree, tag: str) -> Layout:
    """Return the image that is called `tag` in the layout that `files` holds.

    Without a tag the layout must hold one thing: one image, however many names it has, or the
    images of several platforms, all of them under one name or none.  Such a set becomes an
    index, written here and embedded in its own descriptor, and the platform is chosen from it
    as from any other.  A tag that several entries bear is treated alike.

    :param tag: an entry's name; ``@N`` is entry number N, from 0; empty for none.
    :raises NotFoundError: no such tag.
    :raises UsageError: several images, and no tag to tell them apart.
    :raises IntegrityError: not a layout, or a malformed one.
    :raises UnsupportedError: another version of the layout.
    """
    _check_marker(files)
    what = f"{files.what}: index.json"
    index = parse_document(read_document_file(files, "index.json"), media_type=None, what=what)
    if not isinstance(index, Index):
        raise IntegrityError(f"{what}: got a manifest, want an index")
    entries = _called(index.manifests, tag, files.what)
    # Attestations and artifacts may stand beside the images; alone, they are for the parser
    # of documents to refuse by name.
    entries = [entry for entry in entries if is_image(entry)] or entries
    names = dict.fromkeys(name for entry in entries for name in _names(entry))
    return Layout(files, _one(entries, files.what), tuple(names))


def _check_marker(files: FileTree) -> None:
    try:
        marker = parse_object(read_document_file(files, _MARKER), f"{files.what}: {_MARKER}")
    except NotFoundError:
        raise IntegrityError(
            f"not an OCI image layout: {files.what}: got no file {_MARKER!r}"
        ) from None
    version = required(marker, "imageLayoutVersion", str, f"{files.what}: {_MARKER}")
    if version != _VERSION:
        raise UnsupportedError(
            f"{files.what}: imageLayoutVersion: got {quoted(version)}, want {_VERSION!r}"
        )


def _names(entry: Descriptor) -> list[str]:
    """Return what an entry is called, the fuller name first."""
    found = (entry.annotations.get(_IMAGE_NAME), entry.annotations.get(_REF_NAME))
    return [name for name in found if name]


def _called(entries: Sequence[Descriptor], tag: str, what: str) -> list[Descriptor]:
    if not tag:
        found = list(entries)
    elif tag.startswith("@"):
        found = [entries[number] for number in numbered(tag, len(entries))]
    else:
        # The specification's own name goes before the one that two programs add.
        found = [entry for entry in entries if entry.annotations.get(_REF_NAME) == tag]
        found = found or [entry for entry in entries if tag in _names(entry)]
    if not found:
        raise not_found([_names(entry) for entry in entries], tag, what)
    return found


def _one(entries: Sequence[Descriptor], what: str) -> Descriptor:
    distinct = list({entry.digest: entry for entry in entries}.values())
    if len(distinct) == 1:
        return distinct[0]
    platforms = {entry.platform for entry in distinct}
    names = {tuple(_names(entry)) for entry in distinct}
    if None in platforms or len(platforms) < len(distinct) or len(names) > 1:
        raise several([_names(entry) for entry in distinct], what)
    return Index(mediatype.OCI_INDEX, tuple(distinct)).embedded()
