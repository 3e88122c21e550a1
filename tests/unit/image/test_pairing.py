"""Layers are paired by position, and only when both documents list as many."""

from __future__ import annotations

import pytest

from stacker.errors import IntegrityError
from stacker.image import mediatype
from stacker.image.config import ImageConfig, pair_layers
from stacker.image.descriptor import Descriptor
from stacker.image.digest import DiffID, Digest
from stacker.image.manifest import Manifest
from stacker.image.platform import Platform

CONFIG = Descriptor(mediatype.OCI_CONFIG, Digest.of(b"{}"), 2)


def image(layers: int, diff_ids: int) -> tuple[Manifest, ImageConfig]:
    """Return the documents of an image whose manifest and config list so many layers."""
    blobs = tuple(Descriptor(mediatype.OCI_LAYER, Digest.of(b"%d" % n), 1) for n in range(layers))
    names = tuple(DiffID.of(b"tar %d" % n) for n in range(diff_ids))
    return (
        Manifest(mediatype.OCI_MANIFEST, CONFIG, blobs),
        ImageConfig(Platform("linux", "amd64"), names),
    )


@pytest.mark.parametrize("count", [0, 1, 3])
def test_layers_are_paired_by_position(count: int) -> None:
    manifest, config = image(count, count)
    pairs = pair_layers(manifest, config)
    assert [pair[0] for pair in pairs] == list(manifest.layers)
    assert [pair[1] for pair in pairs] == list(config.diff_ids)


@pytest.mark.parametrize(("layers", "diff_ids"), [(0, 1), (1, 0), (2, 3), (3, 2)])
def test_different_numbers_of_layers_are_refused(layers: int, diff_ids: int) -> None:
    with pytest.raises(IntegrityError) as caught:
        pair_layers(*image(layers, diff_ids))
    assert caught.value.message == (
        f"image {CONFIG.digest}: manifest lists {layers} layers, config lists {diff_ids} diff_ids"
    )
