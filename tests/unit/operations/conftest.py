"""A store, and a function that pulls images into it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stacker.image.digest import ImageID
from stacker.image.platform import Platform
from stacker.jobs.tasks import UnpackOptions
from stacker.layer.metadata import SQUASH
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.operations.pull import pull_image
from stacker.source.open import open_source
from stacker.store.store import Store
from tests.support import images
from tests.support.images import Pull


@pytest.fixture
def pull(store: Store, tmp_path: Path) -> Pull:
    def pull(
        name: str,
        *layers: bytes,
        author: str = "",
        architecture: str = "amd64",
        origin: str = "",
        keep_blobs: bool = False,
    ) -> ImageID:
        layout = images.layout(
            tmp_path / name,
            layers,
            name=name,
            platform=("linux", architecture),
            config=lambda config: config.update(author=author),
        )
        with open_source(layout.source, spool=tmp_path) as source:
            pulled = pull_image(
                store,
                source,
                platform=Platform("linux", architecture),
                options=UnpackOptions(WhiteoutFormat.USER, SQUASH, keep_blobs=keep_blobs),
                jobs=1,
                origin=origin or name,
                emit=lambda _: None,
            )
        return pulled.image_id

    return pull
