"""The library does what the command does: each method on a real store, with real mounts."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args

import pytest

import stacker
from stacker import (
    Event,
    LayerError,
    LayerRestored,
    LayersFound,
    LayerUnpacked,
    Limits,
    LockedError,
    NotFoundError,
    RegistryOptions,
    Store,
    UsageError,
)
from tests.support import images
from tests.support.command import REPOSITORY, Stacker
from tests.support.sample import MIDDLE
from tests.support.snapshot import snapshot

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts: needs root")


def test_pull_returns_the_image_and_reports_events(store: Store, layout: images.Layout) -> None:
    events: list[Event] = []
    image = store.pull(layout.source, on_event=events.append)
    assert str(image.id) == layout.image.config
    assert image.names == ("app:1.0",)
    assert [str(layer.diff_id) for layer in image.layers] == list(layout.image.diff_ids)
    assert image.config.cmd == ("/bin/sh",)
    assert image.size == sum(layer.size for layer in image.layers) > 0
    assert isinstance(events[0], LayersFound)
    unpacked = {str(each.diff_id) for each in events if isinstance(each, LayerUnpacked)}
    assert unpacked == set(layout.image.diff_ids)


def test_the_command_and_the_library_use_one_store(
    store: Store, layout: images.Layout, tmp_path: Path
) -> None:
    image = store.pull(layout.source)
    command = Stacker(store.root)
    assert command("images", "--quiet").last == str(image.id)
    command("pull", images.layout(tmp_path / "b", [b""], name="b:2").source)
    assert [each.names for each in store.images()] == [("app:1.0",), ("b:2",)]


@needs_root
@pytest.mark.usefixtures("alone_among_mounts")
@pytest.mark.parametrize("driver", ["overlay", "fuse", "copy"])
def test_a_mount_has_the_tree_and_ends_with_its_block(
    store: Store, layout: images.Layout, target: Path, tmp_path: Path, driver: str
) -> None:
    image = store.pull(layout.source)
    store.unpack(image, tmp_path / "tree")
    with store.mount(image, target, driver=driver) as mount:
        assert (mount.target, mount.driver, mount.image_id) == (target, driver, image.id)
        assert not mount.writable
        assert [each.id for each in store.mounts()] == [mount.id]
        assert snapshot(target) == snapshot(tmp_path / "tree")
    assert os.listdir(target) == []
    assert store.mounts() == []


@needs_root
@pytest.mark.usefixtures("alone_among_mounts")
@pytest.mark.parametrize("driver", ["overlay", "fuse"])
def test_writes_are_discarded_without_an_upper_directory_and_kept_with_one(
    store: Store, layout: images.Layout, target: Path, tmp_path: Path, driver: str
) -> None:
    image = store.pull(layout.source)
    for upper in (None, tmp_path / "upper"):
        with store.mount(image, target, writable=True, upper=upper, driver=driver) as mount:
            assert mount.writable
            (target / "new").write_text("1")
    assert (tmp_path / "upper" / "new").read_text() == "1"
    with store.mount(image, target, driver=driver):
        assert not (target / "new").exists()


@needs_root
@pytest.mark.usefixtures("alone_among_mounts")
def test_the_end_of_a_block_leaves_another_mount_at_the_same_target(
    store: Store, layout: images.Layout, target: Path
) -> None:
    image = store.pull(layout.source)
    with store.mount(image, target) as mount:
        mount.unmount()
        other = store.mount(image, target)
    assert [each.id for each in store.mounts()] == [other.id]
    with pytest.raises(NotFoundError):
        mount.unmount()
    other.unmount()


@needs_root
@pytest.mark.usefixtures("alone_among_mounts")
def test_an_image_in_use_is_not_removed(store: Store, layout: images.Layout, target: Path) -> None:
    image = store.pull(layout.source)
    with store.mount(image, target), pytest.raises(LockedError):
        store.remove(image)
    store.remove(image)
    assert store.images() == []
    with pytest.raises(NotFoundError):
        store.image(image)


def test_push_and_copy_keep_the_image(store: Store, layout: images.Layout, tmp_path: Path) -> None:
    image = store.pull(layout.source)
    pushed = store.push(image, f"oci:{tmp_path}/out:1", compression="zstd")
    assert pushed.image_id == image.id
    copied = stacker.copy_image(f"oci:{tmp_path}/out:1", f"oci-archive:{tmp_path}/out.tar:1")
    assert copied.root.digest == pushed.copied.root.digest
    other = Store.open(tmp_path / "other").pull(f"oci-archive:{tmp_path}/out.tar:1")
    assert other.id == image.id


@pytest.mark.parametrize("kind", ["tar", "erofs"])
def test_export_writes_one_file(
    store: Store, layout: images.Layout, tmp_path: Path, kind: Literal["tar", "erofs"]
) -> None:
    image = store.pull(layout.source)
    out = tmp_path / "out"
    exported = store.export(image, out, kind=kind)
    assert exported.image_id == image.id
    assert exported.size == out.stat().st_size
    assert exported.digest.hex == hashlib.sha256(out.read_bytes()).hexdigest()
    one = store.export(image, out, layer=2)
    assert one.digest.hex == image.layers[1].diff_id.hex


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_files_outside_the_store_obey_the_umask(
    store: Store, layout: images.Layout, tmp_path: Path, umask: int
) -> None:
    image = store.pull(layout.source)
    before = os.umask(umask)
    try:
        store.push(image, f"oci-archive:{tmp_path}/out.tar")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.tar").stat().st_mode) == 0o666 & ~umask


def test_damage_is_found_and_repaired(store: Store, layout: images.Layout) -> None:
    image = store.pull(layout.source)
    assert store.verify().is_sound
    layer = image.layers[2].diff_id
    victim = next((store.root / "layers/sha256" / layer.hex / "diff").iterdir())
    victim.write_bytes(b"changed")
    assert [each.diff_id for each in store.verify(image).damaged] == [layer]
    assert dict(store.repair(image).layers) == {layer: layout.source}
    assert store.verify(image).is_sound


def test_a_registry_is_reached_by_the_options_of_the_store(
    registry: str, store: Store, layout: images.Layout, tmp_path: Path
) -> None:
    store.push(store.pull(layout.source), f"docker://{registry}/team/app:1.0")
    assert stacker.list_tags(f"docker://{registry}/team/app") == ["1.0"]
    options = RegistryOptions(auth_files=(tmp_path / "auth.json",))
    other = Store.open(tmp_path / "other", registries=options)
    image = other.pull(f"docker://{registry}/team/app:1.0")
    assert str(image.id) == layout.image.config


def test_limits_are_those_of_the_caller(store: Store, layout: images.Layout) -> None:
    with pytest.raises(LayerError):
        store.pull(layout.source, limits=Limits(entries=1))
    assert store.images() == []


def test_an_image_of_another_platform_is_refused(store: Store, layout: images.Layout) -> None:
    with pytest.raises(NotFoundError, match="linux/arm64"):
        store.pull(layout.source, platform="linux/arm64")


def test_a_missing_store_reads_as_an_empty_one(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "none", create=False)
    assert (store.images(), store.mounts(), store.collect_garbage()) == ([], [], [])
    assert not (tmp_path / "none").exists()


def test_a_store_and_its_values_travel_by_pickle(store: Store, layout: images.Layout) -> None:
    image = store.pull(layout.source)
    copy, same = pickle.loads(pickle.dumps((store, image)))
    assert (copy, same) == (store, image)
    assert copy.images() == [image]


@pytest.mark.parametrize("value", ["id", "names", "layers"])
def test_values_cannot_be_changed(store: Store, layout: images.Layout, value: str) -> None:
    with pytest.raises(AttributeError):
        setattr(store.pull(layout.source), value, ())


def test_only_from_environment_reads_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STACKER_STORE", str(tmp_path / "named"))
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:1")
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    named = Store.from_environment()
    assert named.root == tmp_path / "named"
    assert named.registries.https_proxy == "http://proxy.example:1"
    assert named.registries.auth_files == (tmp_path / "auth.json",)
    assert Store.open(tmp_path / "other").registries == RegistryOptions()
    given = Store.from_environment({"STACKER_STORE": str(tmp_path / "given")})
    assert given.root == tmp_path / "given"
    assert given.registries.https_proxy == ""


def test_from_environment_reads_the_configuration_files(
    layout: images.Layout, tmp_path: Path
) -> None:
    config = tmp_path / "config/stacker/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(
        f'store = "{tmp_path}/configured"\nadditional-stores = ["{tmp_path}/other"]\n'
        "[limits]\nmax-entries = 1\nmax-archive-ratio = 7\n"
    )
    base = Store.open(tmp_path / "other").pull(layout.source)
    store = Store.from_environment({"XDG_CONFIG_HOME": str(tmp_path / "config")})
    assert store.root == tmp_path / "configured"
    assert (store.limits.entries, store.limits.archive_ratio) == (1, 7)
    assert store.pull(layout.source).layers == base.layers  # used in place, so no limit applies
    with pytest.raises(LayerError):
        store.pull(images.layout(tmp_path / "b", [MIDDLE]).source)
    config.write_text("jobs = 0")
    with pytest.raises(UsageError, match="jobs: got 0"):
        Store.from_environment({"XDG_CONFIG_HOME": str(tmp_path / "config")})


def test_names_move_and_the_last_one_takes_the_image(
    store: Store, layout: images.Layout, tmp_path: Path
) -> None:
    image = store.pull(layout.source, names=["one", "two:2"])
    assert image.names == ("one:latest", "two:2")
    other = store.pull(images.layout(tmp_path / "b", [b""], name="b").source)
    assert store.tag(other, "one").moved == (("one:latest", image.id),)
    assert store.untag("two:2") == {"two:2": image.id}
    assert store.find("one") == other.id
    with pytest.raises(UsageError, match="several names"):
        store.remove(other)
    assert store.remove("b").untagged == {"b": other.id}
    assert list(store.remove("one", image).images) == [other.id, image.id]
    assert store.images() == []


def test_a_converted_image_keeps_its_tree(
    store: Store, layout: images.Layout, tmp_path: Path
) -> None:
    image = store.pull(layout.source)
    assert store.unpack(image, tmp_path / "before") == image.id
    assert store.convert(image, "erofs") == (3, 3)
    store.unpack(image, tmp_path / "after")
    assert snapshot(tmp_path / "after") == snapshot(tmp_path / "before")
    assert [usage.forms for usage in store.image_usages()] == [("erofs",)]


def test_a_layer_that_is_unpacked_again_is_reported(store: Store, layout: images.Layout) -> None:
    image = store.pull(layout.source)
    lost = image.layers[0].diff_id
    shutil.rmtree(store.root / "layers/sha256" / lost.hex)
    events: list[Event] = []
    store.push(image, f"docker-archive:{store.root.parent}/out.tar", on_event=events.append)
    assert LayerRestored(lost, layout.source) in events


def test_an_option_that_names_no_directory_is_an_error(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="cert_dir"):
        RegistryOptions(cert_dir=tmp_path / "none").access()
    with pytest.raises(NotFoundError, match=r"registries\.conf"):
        RegistryOptions(registries_conf=(tmp_path / "none",)).access()
    with pytest.raises(UsageError):
        store.pull("nope:./there")


def test_every_kind_of_event_is_a_name_of_the_library() -> None:
    assert {kind.__name__ for kind in get_args(Event)} <= set(stacker.__all__)


def test_every_name_of_the_library_is_loaded_on_its_first_use() -> None:
    script = (
        "import sys, stacker\n"
        "assert [m for m in sys.modules if m.startswith('stacker')] == ['stacker']\n"
        "assert set(stacker.__all__) <= set(dir(stacker))\n"
        "from stacker import *\n"
        "assert all(name in globals() for name in stacker.__all__)\n"
        "try:\n stacker.nothing\n"
        "except AttributeError: pass\n"
        "else: raise AssertionError\n"
        "assert 'argparse' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=REPOSITORY)


def test_the_library_prints_nothing(
    store: Store, layout: images.Layout, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image = store.pull(layout.source)
    store.push(image, f"oci:{tmp_path}/out:1")
    store.unpack(image, tmp_path / "tree")
    store.verify(image)
    assert capfd.readouterr() == ("", "")
