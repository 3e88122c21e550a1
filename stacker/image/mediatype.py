"""The media types this program reads, under the names that the two specifications give them.

Values only.  A type that stands in no set here is refused by the parsers, by name.
Sources: image-spec media-types.md; distribution's "Image Manifest Version 2, Schema 2".
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
# What a registry once made of the type of some configs in schema 2 (distribution's issue 1621);
# Docker pulls such images.
MISNAMED_CONFIGS = frozenset({"application/octet-stream", "application/json"})

# Deprecated, and still in Windows images: the layer may be missing where the image is, and is
# then to be had from the descriptor's `urls`.
FOREIGN_LAYERS = frozenset(
    {OCI_FOREIGN_LAYER, OCI_FOREIGN_LAYER + "+gzip", OCI_FOREIGN_LAYER + "+zstd"}
    | {DOCKER_FOREIGN_LAYER, DOCKER_FOREIGN_LAYER + ".gzip"}
)
# The suffix promises a compression; which one it is, the stream's magic decides.
LAYERS = FOREIGN_LAYERS | frozenset(
    {OCI_LAYER, OCI_LAYER + "+gzip", OCI_LAYER + "+zstd"}
    | {DOCKER_LAYER, DOCKER_LAYER + ".gzip", DOCKER_LAYER + ".zstd"}
)
