"""OCI image layouts, in a directory or in an archive.

A tree of files and a tag come in; a source goes out.  This module must not know how the files are
stored.
Source: image-spec image-layout.md; annotations.md for ``org.opencontainers.image.ref.name``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, NotFoundError, UnsupportedError
from stacker.image import mediatype
from stacker.image.document import parse_object, quoted, required
from stacker.image.manifest import Index, parse_document
from stacker.image.selection import ambiguous, entry_number, is_image, not_found
from stacker.source.files import open_blob_file, read_document_file
from stacker.source.protocol import read_document

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

    from stacker.image.descriptor import Descriptor
    from stacker.source.files import FileTree


@dataclass(frozen=True, slots=True)
class Layout:
    """An image or an index in an OCI image layout; see `Source`."""

    files: FileTree
    chosen: Descriptor
    names: tuple[str, ...]

    def root(self) -> Descriptor:
        """Return the descriptor of the chosen manifest or index."""
        return self.chosen

    def document(self, descriptor: Descriptor) -> bytes:
        """Return a document, verified; see `Source`."""
        return read_document(self, descriptor, self.files.what)

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        """Return a file with the bytes of a blob; see `Source`."""
        digest = descriptor.digest
        return open_blob_file(self.files, f"blobs/{digest.algorithm}/{digest.hex}", descriptor)


def open_layout(files: FileTree, tag: str) -> Layout:
    """Return the image named `tag` in a layout.

    Without a tag, the layout must have a single image, or images that differ in their platforms
    only.  The latter become a generated index, embedded in its own descriptor, and so do several
    entries with the same tag.

    :param tag: an entry's name; ``@N`` for entry number N, counted from 0; empty for none.
    :raises NotFoundError: no such tag.
    :raises UsageError: several images, and no tag.
    :raises IntegrityError: not a layout, or a malformed one.
    :raises UnsupportedError: another version of the layout.
    """
    _check_marker(files)
    what = f"{files.what}: index.json"
    index = parse_document(read_document_file(files, "index.json"), media_type=None, what=what)
    if not isinstance(index, Index):
        raise IntegrityError(f"{what}: got a manifest, want an index")
    entries = _entries_named(index.manifests, tag, files.what)
    # Attestations and artifacts beside images are skipped.  Without an image, the document
    # parser refuses them with a message.
    entries = [entry for entry in entries if is_image(entry)] or entries
    names = dict.fromkeys(name for entry in entries for name in _names(entry))
    return Layout(files, _one(entries, files.what), tuple(names))


def _check_marker(files: FileTree) -> None:
    name, want = mediatype.LAYOUT_FILE, mediatype.LAYOUT_VERSION
    try:
        marker = parse_object(read_document_file(files, name), f"{files.what}: {name}")
    except NotFoundError:
        raise IntegrityError(
            f"not an OCI image layout: {files.what}: got no file {name!r}, want one"
        ) from None
    version = required(marker, "imageLayoutVersion", str, f"{files.what}: {name}")
    if version != want:
        raise UnsupportedError(
            f"{files.what}: imageLayoutVersion: got {quoted(version)}, want {want!r}"
        )


def _names(entry: Descriptor) -> list[str]:
    """Return the names of an entry, full name first."""
    found = (entry.annotations.get(mediatype.IMAGE_NAME), entry.annotations.get(mediatype.REF_NAME))
    return [name for name in found if name]


def _entries_named(entries: Sequence[Descriptor], tag: str, what: str) -> list[Descriptor]:
    if not tag:
        found = list(entries)
    elif tag.startswith("@"):
        found = [entries[number] for number in entry_number(tag, len(entries))]
    else:
        # The specification's annotation takes precedence over containerd's.
        found = [entry for entry in entries if entry.annotations.get(mediatype.REF_NAME) == tag]
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
        raise ambiguous([_names(entry) for entry in distinct], what)
    return Index(mediatype.OCI_INDEX, tuple(distinct)).embedded()
