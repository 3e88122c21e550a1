"""Archives of ``docker save``, in the formats of old and new engines and of other tools.

An archive and an image's name come in; a source goes out.  These archives have no manifest with the
sizes of the layers, so this module generates one.  It must not know how the archive is stored.
Source: moby's image/spec/v1.2.md, "Combined Image JSON + Filesystem Changeset Format".
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from stacker.errors import IntegrityError, NotFoundError, UnsupportedError
from stacker.image import mediatype
from stacker.image.config import parse_config
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest, ImageID
from stacker.image.document import as_object, parse_json, quoted, required, strings
from stacker.image.manifest import Manifest
from stacker.image.selection import ambiguous, entry_number, not_found
from stacker.source.files import open_blob_file, read_document_file
from stacker.source.protocol import read_document
from stacker.stream.compression import detect_compression, read_chunks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import BinaryIO

    from stacker.image.digest import DiffID
    from stacker.source.tar_files import Archive

_LIST = "manifest.json"
_MAGIC = 4  # bytes that distinguish gzip, zstd and tar
_SUFFIX = {"none": "", "gzip": "+gzip", "zstd": "+zstd"}


@dataclass(frozen=True, slots=True)
class DockerArchive:
    """An image in an archive of ``docker save``; see `Source`.

    :param chosen: the descriptor of the generated manifest, which it embeds.
    :param blobs: digest of a blob → name of its file in the archive.
    """

    archive: Archive
    chosen: Descriptor
    names: tuple[str, ...]
    blobs: Mapping[Digest, str] = field(hash=False, repr=False)

    def root(self) -> Descriptor:
        """Return the descriptor of the generated manifest."""
        return self.chosen

    def document(self, descriptor: Descriptor) -> bytes:
        """Return a document, verified; see `Source`."""
        return read_document(self, descriptor, self.archive.what)

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        """Return a file with the bytes of a blob; see `Source`."""
        name = self.blobs.get(descriptor.digest)
        if name is None:
            raise NotFoundError(f"blob not found: {self.archive.what}: {descriptor.digest}")
        return open_blob_file(self.archive, name, descriptor)


class _SavedImage(NamedTuple):
    """One image of manifest.json."""

    config: str
    layers: tuple[str, ...]
    names: tuple[str, ...]


def open_docker(archive: Archive, name: str) -> DockerArchive:
    """Return the image named `name` in an archive.

    The digest of an uncompressed layer is its diff_id.  A compressed layer's file name may be its
    digest, which the reader verifies later; otherwise the layer is hashed here.

    :param name: one of the names in the archive: complete, without leading components if that is
        unambiguous, or without the tag ``latest``; ``@N`` for image number N of manifest.json,
        counted from 0; empty if there is one image.
    :raises NotFoundError: no such image.
    :raises UsageError: several images, and no name.
    :raises IntegrityError: not such an archive, or a malformed one.
    :raises UnsupportedError: the archive is older than Docker 1.10.
    """
    saved = _image_named(_read_list(archive), name, archive.what)
    raw = read_document_file(archive, saved.config)
    config = Descriptor(mediatype.OCI_CONFIG, Digest.of(raw), len(raw))
    where = f"{archive.what}: {quoted(saved.config)}"
    _check_name(saved.config, config.digest, where)
    diff_ids = parse_config(raw, where).diff_ids
    if len(diff_ids) != len(saved.layers):
        raise IntegrityError(
            f"wrong number of layers: image {ImageID.recast(config.digest)}: got "
            f"{len(saved.layers)} in {_LIST}, want {len(diff_ids)} as in the config's diff_ids"
        )
    layers = _layers(archive, saved.layers, diff_ids)
    manifest = Manifest(mediatype.OCI_MANIFEST, config, layers)
    blobs = {layer.digest: name for layer, name in zip(layers, saved.layers, strict=True)}
    blobs[config.digest] = saved.config
    return DockerArchive(archive, manifest.embedded(), saved.names, blobs)


def _read_list(archive: Archive) -> list[_SavedImage]:
    """Return the images of manifest.json; a repeated image only adds its names."""
    if not archive.has(_LIST):
        if archive.has("repositories"):
            raise UnsupportedError(
                f"unsupported docker archive: {archive.what}: got no {_LIST}, want one "
                "(Docker 1.10 or later)"
            )
        hint = "try the transport oci-archive" if archive.has("oci-layout") else None
        raise IntegrityError(
            f"not a docker archive: {archive.what}: got no {_LIST}, want one", hint=hint
        )
    what = f"{archive.what}: {_LIST}"
    listed = parse_json(read_document_file(archive, _LIST), what)
    if not isinstance(listed, list):
        raise IntegrityError(f"{what}: got {quoted(listed)}, want a list")
    images: dict[tuple[object, ...], _SavedImage] = {}
    for number, obj in enumerate(listed):
        saved = _parse_image(as_object(obj, f"{what}: [{number}]"), f"{what}: [{number}]")
        key = (saved.config, saved.layers)
        known = images.get(key, saved)
        images[key] = known._replace(names=tuple(dict.fromkeys(known.names + saved.names)))
    return list(images.values())


def _parse_image(members: dict[str, object], where: str) -> _SavedImage:
    return _SavedImage(
        required(members, "Config", str, where),
        strings(members, "Layers", where),
        strings(members, "RepoTags", where),
    )


def _image_named(images: Sequence[_SavedImage], name: str, what: str) -> _SavedImage:
    """Return the image named `name`, with that name first."""
    if name.startswith("@"):
        found: dict[int, tuple[str, ...]] = dict.fromkeys(entry_number(name, len(images)), ())
    else:
        found = _matches(images, name)
    if not found:
        raise not_found([image.names for image in images], name, what)
    if len(found) > 1:
        raise ambiguous([images[number].names for number in found], what)
    ((number, names),) = found.items()
    return images[number]._replace(names=tuple(dict.fromkeys(names + images[number].names)))


def _matches(images: Sequence[_SavedImage], name: str) -> dict[int, tuple[str, ...]]:
    """Return the numbers of the images named `name`, with the names that match.

    A complete name takes precedence over an abbreviation: ``team/app`` also matches
    ``registry.example/team/app:latest``, unless another image has that name.
    """
    if not name:
        return dict.fromkeys(range(len(images)), ())
    tagged = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
    for full, abbreviated in ((name, False), (tagged, False), (tagged, True)):
        found = {}
        for number, image in enumerate(images):
            names = [
                n for n in image.names if n == full or (abbreviated and n.endswith(f"/{full}"))
            ]
            if names:
                found[number] = tuple(names)
        if found:
            return found
    return {}


def _check_name(name: str, digest: Digest, where: str) -> None:
    """Refuse a config whose file name is the digest of another document."""
    claimed = name.rpartition("/")[2].removesuffix(".json")
    if _is_hex(claimed) and claimed != digest.hex:
        raise IntegrityError(f"wrong digest: {where}: got {digest}, want sha256:{claimed}")


def _layers(
    archive: Archive, names: Sequence[str], diff_ids: Sequence[DiffID]
) -> tuple[Descriptor, ...]:
    """Return the descriptors of the layers; read a member once, even if the image repeats it."""
    known: dict[tuple[str, str], Descriptor] = {}
    layers = []
    for name, diff_id in zip(names, diff_ids, strict=True):
        key = archive.find(name), diff_id.algorithm
        if key not in known:
            known[key] = _layer(archive, key[0], diff_id)
        layer = known[key]
        is_plain = layer.media_type == mediatype.OCI_LAYER
        layers.append(replace(layer, digest=Digest.recast(diff_id)) if is_plain else layer)
    return tuple(layers)


def _layer(archive: Archive, name: str, diff_id: DiffID) -> Descriptor:
    with archive.open(name) as window:
        compression = detect_compression(window.read(_MAGIC))
    layer = Descriptor(
        mediatype.OCI_LAYER + _SUFFIX[compression], Digest.recast(diff_id), window.size
    )
    if compression == "none":
        return layer
    folder, _, leaf = name.rpartition("/")
    if folder.endswith("blobs/sha256") and _is_hex(leaf):
        return replace(layer, digest=Digest("sha256", leaf))
    return replace(layer, digest=_hashed(archive, name, layer.digest))


def _hashed(archive: Archive, name: str, like: Digest) -> Digest:
    hasher = like.new_hash()
    with archive.open(name) as window:
        for chunk in read_chunks(window):
            hasher.update(chunk)
    return Digest(like.algorithm, hasher.hexdigest())


def _is_hex(text: str) -> bool:
    return len(text) == len(Digest.of(b"").hex) and not text.strip("0123456789abcdef")
