"""Mounted images: the layers that a mount holds against removal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from stacker.errors import LockedError
from stacker.mount.detach import detach
from stacker.mount.plan import MountRequest
from stacker.mount.table import Table
from stacker.operations.mount import mount_image
from stacker.operations.remove import remove_image
from tests.support.tars import dir, file, tar  # noqa: A004 - tests write `dir` in tars

if TYPE_CHECKING:
    from pathlib import Path

    from stacker.store.store import Store
    from tests.support.images import Pull

A, B = tar(dir("d/"), file("d/a", b"1")), tar(file("d/b", b"2"))


@pytest.fixture
def request_to(tmp_path: Path) -> MountRequest:
    (tmp_path / "target").mkdir()
    return MountRequest(tmp_path / "target", "copy", read_only=False)  # needs no privilege


@pytest.mark.parametrize("has_ids", [True, False], ids=["record with IDs", "earlier record"])
def test_mounted_image_is_not_removed(
    store: Store, pull: Pull, request_to: MountRequest, *, has_ids: bool
) -> None:
    image, other = pull("app", A, B), pull("other", B)
    record, _ = mount_image(store, "app", request_to)
    config = store.images.config(image)
    assert record.diff_ids == tuple(map(str, config.diff_ids))
    if not has_ids:
        path = store.mounts / record.id / "mount.json"
        document = json.loads(path.read_bytes())
        del document["diff_ids"], document["chain_id"]
        path.write_text(json.dumps(document))
    remove_image(store, other)
    with pytest.raises(LockedError, match=f"is mounted at {record.target}"):
        remove_image(store, image)
    detach(Table(store.mounts), record.target)
    remove_image(store, image)
    assert list(store.layers.all()) == []
