"""Media types and annotation keys that this program reads, as the specifications name them.

Constants only.  The parsers refuse a type that no set here contains.
Sources: image-spec media-types.md, annotations.md and image-layout.md; distribution's "Image
Manifest Version 2, Schema 2".
"""

from __future__ import annotations

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_FOREIGN_LAYER = "application/vnd.oci.image.layer.nondistributable.v1.tar"

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_FOREIGN_LAYER = "application/vnd.docker.image.rootfs.foreign.diff.tar"

SCHEMA1_MANIFEST = "application/vnd.docker.distribution.manifest.v1+json"
SCHEMA1_SIGNED_MANIFEST = "application/vnd.docker.distribution.manifest.v1+prettyjws"

MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})
# A registry once replaced the type of some configs in schema 2 (distribution's issue 1621), and
# Docker pulls such images.
MISNAMED_CONFIGS = frozenset({"application/octet-stream", "application/json"})

# Deprecated, but used by Windows images: the registry may lack the layer, which is then available
# from the descriptor's `urls`.
FOREIGN_LAYERS = frozenset(
    {OCI_FOREIGN_LAYER, OCI_FOREIGN_LAYER + "+gzip", OCI_FOREIGN_LAYER + "+zstd"}
    | {DOCKER_FOREIGN_LAYER, DOCKER_FOREIGN_LAYER + ".gzip"}
)
# The stream's magic, not the suffix, decides how a layer is decompressed.
LAYERS = FOREIGN_LAYERS | frozenset(
    {OCI_LAYER, OCI_LAYER + "+gzip", OCI_LAYER + "+zstd"}
    | {DOCKER_LAYER, DOCKER_LAYER + ".gzip", DOCKER_LAYER + ".zstd"}
)

REF_NAME = "org.opencontainers.image.ref.name"
"""Annotation: the tag of an entry in a layout's index."""
IMAGE_NAME = "io.containerd.image.name"
"""Annotation of containerd and Docker: the full name, while `REF_NAME` has the tag only."""
LAYOUT_FILE = "oci-layout"
"""The file that marks a directory as an image layout."""
LAYOUT_VERSION = "1.0.0"
"""``imageLayoutVersion`` in that file."""
