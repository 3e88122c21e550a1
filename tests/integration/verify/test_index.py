"""`stacker verify` compares each index with its tar, and trusts an equal one from then on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stacker.errors import IntegrityError
from stacker.jobs import verify_index
from stacker.layer import checksums
from stacker.operations import verify, verify_chain
from stacker.operations.verify import Verification, verify_images
from stacker.store.store import Store
from tests.support import images
from tests.support.command import Stacker

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="expects whiteouts of root")


@pytest.fixture
def store(stacker: Stacker, app: images.Layout) -> Path:
    stacker("pull", "--sync", "--form", "erofs", app.source)
    return stacker.store


def kept(store: Path) -> list[Path]:
    return sorted(store.glob("*/sha256/*/index.sha256"))


def verified(store: Path, *, contents: bool = True) -> Verification:
    opened = Store.open(store)
    image_ids = [image.id for image in opened.images.all()]
    return verify_images(opened, image_ids, contents=contents, jobs=2, emit=lambda _: None)


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def change_record(store: Path) -> None:
    [path] = store.glob("chains/sha256/*/chain.json")
    record = json.loads(path.read_bytes())
    path.write_text(json.dumps({**record, "plain": not record["plain"]}))


def change_root(store: Path) -> None:
    [root] = store.glob("chains/sha256/*/root")
    root.chmod(0o711)


def change_merged(store: Path) -> None:
    [path] = store.glob("chains/sha256/*/merged.erofs")
    flip(path, path.stat().st_size - 600)


def change_index(store: Path) -> None:
    for path in store.glob("layers/sha256/*/index.erofs"):
        flip(path, 1300)


def change_header(store: Path) -> None:
    for path in store.glob("layers/sha256/*/layer.tar"):
        flip(path, 100)


def test_verify_keeps_a_checksum_of_each_index_without_damage(
    stacker: Stacker, store: Path
) -> None:
    stacker("verify", "--all", "--fast")
    assert kept(store) == []
    change_index(store)
    assert stacker.run("verify", "--all").code == 5
    assert kept(store) == []
    stacker("repair", "--all")
    stacker("verify", "--all")
    names = [path.relative_to(store).parts[0] for path in kept(store)]
    assert names == ["chains", "layers", "layers", "layers"]


def test_an_index_is_built_again_only_at_the_first_verification(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert verified(store).is_sound

    def run_here(
        tasks: Iterable[object], work: Callable[..., object], **options: Any
    ) -> Iterator[object]:
        return (work(task, options["emit"]) for task in tasks)

    def refused(*_: object, **__: object) -> None:
        raise IntegrityError("built again")

    monkeypatch.setattr(verify, "run_tasks", run_here)
    monkeypatch.setattr(verify_index, "_index_of_tar", refused)
    monkeypatch.setattr(verify_chain, "build_form", refused)
    assert verified(store).is_sound
    fast = verified(store, contents=False)
    assert {layer.damage for layer in fast.layers} == {"built again"}
    monkeypatch.setattr(checksums, "RULES", b"2")
    newer = verified(store)
    assert {layer.damage for layer in newer.layers} == {"built again"}


@pytest.mark.parametrize(
    "damage",
    [change_record, change_root, change_merged, change_index, change_header],
    ids=lambda damage: damage.__name__,
)
def test_damage_of_an_index_after_its_verification_is_found_and_repaired(
    stacker: Stacker, store: Path, damage: Callable[[Path], None]
) -> None:
    stacker("verify", "--all")
    damage(store)
    assert stacker.run("verify", "--all", "--fast").code == 5
    assert stacker.run("verify", "--all").code == 5
    stacker("repair", "--all")
    stacker("verify", "--all")


def test_a_changed_whiteout_format_of_a_verified_layer_is_found(
    stacker: Stacker, store: Path
) -> None:
    stacker("verify", "--all")
    for path in store.glob("layers/sha256/*/layer.json"):
        record = json.loads(path.read_bytes())
        assert record["whiteoutFormat"] == "trusted"
        path.write_text(json.dumps({**record, "whiteoutFormat": "user"}))
    assert "trusted.overlay.opaque" in stacker.run("verify", "--all").out


def test_any_changed_byte_of_an_index_is_damage_after_its_verification(
    stacker: Stacker, store: Path
) -> None:
    stacker("verify", "--all")
    path = max(store.glob("layers/sha256/*/index.erofs"))
    before = path.read_bytes()
    for at in range(1024, len(before), max(1, len(before) // 24)):
        flip(path, at)
        assert not verified(store).is_sound, at
        path.write_bytes(before)
    assert verified(store).is_sound


@pytest.mark.parametrize("content", [b"", b"0" * 65])
def test_a_damaged_checksum_of_an_index_is_written_again(
    stacker: Stacker, store: Path, content: bytes
) -> None:
    stacker("verify", "--all")
    before = [path.read_bytes() for path in kept(store)]
    for path in kept(store):
        path.write_bytes(content)
    stacker("verify", "--all")
    assert [path.read_bytes() for path in kept(store)] == before
    assert os.listdir(store / "staging") == []
