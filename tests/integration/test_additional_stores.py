"""Layers of additional stores: used in place, never pulled, never changed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stacker import Store
from tests.support import images
from tests.support.command import Stacker, at_home
from tests.support.mounts import unmount_below
from tests.support.sample import BASE, MIDDLE, TOP
from tests.support.snapshot import snapshot
from tests.support.tars import dir as folder
from tests.support.tars import file, hardlink, tar

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts overlays"),
    pytest.mark.usefixtures("alone_among_mounts"),
]


@pytest.fixture
def stacker(tmp_path: Path) -> Iterator[Stacker]:
    yield at_home(tmp_path)
    unmount_below(tmp_path)


@pytest.fixture(params=["same filesystem", "another filesystem"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stacker]:
    """Return the command with the store that others use."""
    if request.param == "same filesystem":
        yield at_home(tmp_path, "shared")
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Stacker(Path(directory) / "shared")


@pytest.fixture
def app(tmp_path: Path) -> images.Layout:
    return images.layout(tmp_path / "app", [BASE, MIDDLE, TOP])


@pytest.fixture
def base(tmp_path: Path) -> images.Layout:
    return images.layout(tmp_path / "base", [BASE, MIDDLE], name="base:1.0")


def names_of(stacker: Stacker) -> set[str]:
    return {f"sha256:{path.name}" for path in stacker.layers()}


def beside(shared: Stacker) -> tuple[str, str]:
    return ("--additional-store", str(shared.store))


def mounted(stacker: Stacker, target: Path, *words: str) -> object:
    stacker("mount", *words, "app:1.0", target)
    found = snapshot(target)
    stacker("umount", target)
    return found


@pytest.mark.parametrize("driver", ["overlay", "fuse", "copy"])
def test_layers_of_an_additional_store_are_used_and_not_pulled(
    stacker: Stacker, shared: Stacker, app: images.Layout, base: images.Layout, driver: str
) -> None:
    target = stacker.store.with_name("target")
    target.mkdir()
    whole = Stacker(stacker.store.with_name("whole"))
    whole("pull", app.source)
    want = mounted(whole, target, "--driver", driver)
    shared("pull", "--sync", base.source)
    for digest in app.image.layers[:2]:
        app.blob(digest).unlink()  # a pull of these layers fails
    stacker("pull", *beside(shared), app.source)
    assert names_of(stacker) == {app.image.diff_ids[2]}
    assert mounted(stacker, target, *beside(shared), "--driver", driver) == want


def test_removal_leaves_the_layers_of_an_additional_store(
    stacker: Stacker, shared: Stacker, app: images.Layout, base: images.Layout, target: Path
) -> None:
    shared("pull", "--sync", base.source)
    before = snapshot(shared.store / "layers")
    stacker("pull", "--sync", *beside(shared), app.source)
    mounted(stacker, target, *beside(shared))
    stacker("verify", *beside(shared), "app:1.0")
    stacker("rm", *beside(shared), "app:1.0")
    stacker("gc", *beside(shared))
    assert names_of(stacker) == set()
    assert names_of(shared) == set(base.image.diff_ids)
    assert snapshot(shared.store / "layers") == before


def test_damaged_layer_of_an_additional_store_is_pulled(
    stacker: Stacker, shared: Stacker, app: images.Layout, base: images.Layout, target: Path
) -> None:
    shared("pull", "--no-sync", base.source)
    lost = shared.store / "layers/sha256" / base.image.diff_ids[0].partition(":")[2]
    (lost / "session").write_text("another boot\n")
    damaged = next(path for path in sorted((lost / "diff").rglob("*")) if path.is_file())
    damaged.write_bytes(b"")
    stacker("pull", *beside(shared), app.source)
    assert names_of(stacker) == {app.image.diff_ids[0], app.image.diff_ids[2]}
    stacker("verify", *beside(shared), "app:1.0")


def test_layer_of_an_additional_store_with_another_form_gets_an_own_copy(
    stacker: Stacker, shared: Stacker, app: images.Layout, base: images.Layout, target: Path
) -> None:
    shared("pull", "--sync", base.source)
    before = snapshot(shared.store / "layers")
    stacker("pull", "--form", "erofs", *beside(shared), app.source)
    assert names_of(stacker) == set(app.image.diff_ids)
    assert snapshot(shared.store / "layers") == before
    stacker("verify", *beside(shared), "app:1.0")


def test_hard_link_to_a_file_of_an_additional_store_has_its_contents(
    stacker: Stacker, shared: Stacker, tmp_path: Path, target: Path
) -> None:
    lower = tar(folder("d/"), file("d/old", b"contents", mode=0o640, uid=7))
    upper = tar(hardlink("one", "d/old"), hardlink("two", "d/old"))
    base = images.layout(tmp_path / "base", [lower], name="base:1.0")
    app = images.layout(tmp_path / "app", [lower, upper])
    shared("pull", "--sync", base.source)
    stacker("pull", *beside(shared), app.source)
    stacker("mount", *beside(shared), "app:1.0", target)
    for name in ("one", "two"):
        status = (target / name).stat()
        assert (target / name).read_bytes() == b"contents"
        assert (status.st_mode & 0o7777, status.st_uid) == (0o640, 7)
    assert (target / "one").stat().st_ino == (target / "two").stat().st_ino


def test_library_uses_the_layers_of_an_additional_store(
    stacker: Stacker, shared: Stacker, app: images.Layout, base: images.Layout
) -> None:
    shared("pull", "--sync", base.source)
    store = Store.open(stacker.store, additional_stores=[shared.store])
    assert str(store.pull(app.source).id) == app.image.config
    assert names_of(stacker) == {app.image.diff_ids[2]}


def test_config_file_names_additional_stores(
    stacker: Stacker, shared: Stacker, app: images.Layout, base: images.Layout, tmp_path: Path
) -> None:
    shared("pull", "--sync", base.source)
    config = tmp_path / "home/.config/stacker/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'additional-stores = ["{shared.store}"]\n')
    stacker("pull", app.source)
    assert names_of(stacker) == {app.image.diff_ids[2]}


def test_image_without_its_additional_store_is_pulled_again(
    stacker: Stacker, shared: Stacker, app: images.Layout, base: images.Layout, target: Path
) -> None:
    shared("pull", "--sync", base.source)
    stacker("pull", "--sync", *beside(shared), app.source)
    want = mounted(stacker, target, *beside(shared))
    assert mounted(stacker, target) == want
    assert names_of(stacker) == set(app.image.diff_ids)


@pytest.mark.parametrize("kind", ["missing", "no store"])
def test_additional_store_that_is_none_is_named(
    stacker: Stacker, app: images.Layout, tmp_path: Path, kind: str
) -> None:
    other = tmp_path / "other"
    if kind == "no store":
        other.mkdir()
    message = stacker.refused(
        2 if kind == "no store" else 1, "pull", "--additional-store", other, app.source
    )
    assert str(other) in message
