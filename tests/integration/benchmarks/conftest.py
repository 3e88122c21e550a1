"""A directory for the corpora of the benchmarks."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory whose path is not a valid image name.

    podman and buildah once used such a path as the name of an image.
    """
    return tmp_path_factory.mktemp("Corpora__")
