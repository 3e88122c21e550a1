"""Write an image in the format of ``docker save``: ``docker-archive``.

Blobs and documents come in; an archive goes out.  Since version 25, ``docker save`` writes an OCI
layout with a manifest.json beside it.  This module does the same, so docker, podman and containerd
load the archive, also in older versions.
Sources: moby's image/tarexport; containerd's core/images/archive.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from stacker.destination.archive import LayoutArchive
from stacker.destination.protocol import refused_index
from stacker.errors import UnsupportedError, UsageError
from stacker.image.document import quoted, to_bytes
from stacker.image.location import REGISTRY_TRANSPORT
from stacker.image.manifest import Manifest, parse_document
from stacker.image.reference import DEFAULT_TAG, Reference

if TYPE_CHECKING:
    from typing import BinaryIO

    from stacker.image.descriptor import Descriptor
    from stacker.image.digest import Digest

_LIST = "manifest.json"
_CONTAINERD_NAME = "io.containerd.image.name"


class DockerArchive(LayoutArchive):
    """One image in the tar `file`; see `Destination`.

    :param name: the image's name with its tag, may be empty.
    """

    accepts_indexes = False

    def __init__(self, file: BinaryIO, name: str, what: str) -> None:
        super().__init__(file, name, what)
        self._repo_tag = name

    def finish(self, root: Descriptor, content: bytes) -> None:
        """List the image in manifest.json and index.json, and write the end of the archive.

        :raises UnsupportedError: a layer was not sent, or the document has no image.
        """
        manifest = parse_document(content, media_type=root.media_type, what=f"{root.digest}")
        if not isinstance(manifest, Manifest):
            raise refused_index(self)
        for blob in (manifest.config, *manifest.layers):
            if blob.digest not in self.written:
                raise UnsupportedError(
                    f"cannot write to a docker archive: {self.what}: blob {blob.digest}: got a "
                    "foreign layer, want all layers",
                    hint="write oci-archive:FILE",
                )
        image: dict[str, object] = {
            "Config": _path(manifest.config.digest),
            "RepoTags": [self._repo_tag] if self._repo_tag else [],
            "Layers": [_path(layer.digest) for layer in manifest.layers],
        }
        text = to_bytes([image])
        self.add(_LIST, len(text), [text])
        if name := _complete(self._repo_tag):
            root = replace(root, annotations={**root.annotations, _CONTAINERD_NAME: name})
        super().finish(root, content)


def repo_tag(name: str) -> str:
    """Return a name with a tag, as docker and podman load it.

    :param name: ``[HOST/]REPO[:TAG]``; the default tag is ``latest``.
    :raises UsageError: the name is malformed, or has a digest.
    """
    for text in (name, f"localhost/{name}"):
        try:
            reference = Reference.parse(text)
        except UsageError:
            continue
        if reference.digest is None:
            return name if text.endswith(f":{reference.tag}") else f"{name}:{DEFAULT_TAG}"
    raise UsageError(
        f"malformed name: {quoted(name)}: want [HOST[:PORT]/]REPO[:TAG]",
        hint="write a lowercase name, for example docker-archive:image.tar:app:1.0",
    )


def implied_name(text: str) -> str:
    """Return the name in the archive for the image `text`; empty if `text` is not a name."""
    text = text.removeprefix(REGISTRY_TRANSPORT)
    if text.partition(":")[0] in ("oci", "oci-archive", "docker-archive"):
        return ""
    try:
        return repo_tag(text)
    except UsageError:
        return ""


def _complete(name: str) -> str:
    """Return a name with its registry, as containerd needs it; empty if it is malformed."""
    try:
        return str(Reference.parse(name))
    except UsageError:
        return ""


def _path(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"
