"""The differ: layers reach the store once, and containers stack them as `stacker mount` does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from stacker.containerd.metadata import Kind
from stacker.containerd.mounts import Mount
from stacker.containerd.status import Code, StatusError
from stacker.errors import IntegrityError, LayerError
from stacker.image.config import chain_ids
from stacker.image.descriptor import Descriptor
from stacker.image.digest import DiffID, Digest
from stacker.operations.gc import collect_garbage
from stacker.operations.usage import store_usage
from tests.support import images
from tests.support.containerd import Services, done, mounted
from tests.support.tars import dir as directory
from tests.support.tars import file, opaque, tar, whiteout

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="changes owners: needs root")

BASE = tar(directory("d"), file("d/old", b"1"), file("gone", b"2"))
TOP = tar(whiteout("gone"), file("new", b"3"))


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    found = Services(tmp_path)
    yield found
    found.close()


@pytest.fixture
def layout(tmp_path: Path) -> images.Layout:
    return images.layout(tmp_path / "layout", [BASE, TOP])


def test_a_container_sees_the_layers_as_one_tree(
    services: Services, layout: images.Layout, tmp_path: Path
) -> None:
    top = services.pull(layout)
    mounts = services.prepare("default/9/container", top)
    with mounted(mounts, tmp_path / "target") as target:
        assert sorted(os.listdir(target)) == ["d", "new"]
        (target / "written").write_bytes(b"4")
    assert mounts == done(services.snapshots.mounts("default/9/container"))
    assert os.listdir(mounts[0].upper) == ["written"]
    with mounted(done(services.snapshots.view("view", top, {})), tmp_path / "target") as target:
        assert sorted(os.listdir(target)) == ["d", "new"]


def test_a_layer_of_the_store_is_not_unpacked_again(
    services: Services, layout: images.Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.pull(layout)
    monkeypatch.setattr("stacker.containerd.layers.unpack_layer", None)
    services.apply(layout, 0, services.prepare("default/8/extract-1 x"))
    assert len(list(services.store.layers.all())) == 2


def test_a_layer_that_a_pull_has_unpacked_is_not_unpacked_again(
    services: Services, layout: images.Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support.command import Stacker

    Stacker(services.store.root)("pull", "--no-sync", layout.source)
    monkeypatch.setattr("stacker.containerd.layers.unpack_layer", None)
    services.pull(layout)


def test_usage_of_a_layer_needs_no_walk(services: Services, layout: images.Layout) -> None:
    top = services.pull(layout)
    services.workers.called.clear()
    assert done(services.snapshots.usage(top)) == (1, 2)
    assert services.workers.called == []


def test_the_snapshot_of_another_snapshotter_is_unimplemented(
    services: Services, layout: images.Layout
) -> None:
    services.prepare("active")
    for source in ("/var/lib/other/1/fs", f"{services.snapshots.directories.snapshots}/77/fs"):
        with pytest.raises(StatusError) as raised:
            services.apply(layout, 0, [Mount("bind", source, ("rw", "rbind"))])
        assert raised.value.code == Code.UNIMPLEMENTED


def test_a_parent_that_is_not_a_layer_is_unimplemented(
    services: Services, layout: images.Layout
) -> None:
    services.prepare("active")
    done(services.snapshots.commit("active", "written", {}))
    mounts = services.prepare("default/1/extract-1 x", "written")
    with pytest.raises(StatusError) as raised:
        services.apply(layout, 0, mounts)
    assert raised.value.code == Code.UNIMPLEMENTED


def test_a_missing_blob_is_not_found(
    services: Services, layout: images.Layout, tmp_path: Path
) -> None:
    mounts = services.prepare("default/1/extract-1 x")
    blob = Descriptor(images.LAYER, Digest.parse(layout.image.layers[0]), 100)
    with pytest.raises(StatusError) as raised:
        done(services.differ(tmp_path / "other").apply(blob, mounts))
    assert raised.value.code == Code.NOT_FOUND


def test_a_damaged_blob_leaves_no_layer(services: Services, layout: images.Layout) -> None:
    mounts = services.prepare("default/1/extract-1 x")
    blob = layout.blob(layout.image.layers[0])
    blob.write_bytes(blob.read_bytes()[:-1] + b"\xff")
    with pytest.raises(IntegrityError):
        services.apply(layout, 0, mounts)
    assert list(services.store.layers.all()) == []


def test_a_hostile_layer_is_refused(services: Services, tmp_path: Path) -> None:
    layout = images.layout(tmp_path / "hostile", [tar(whiteout(""), file("a"))])
    mounts = services.prepare("default/1/extract-1 x")
    with pytest.raises(LayerError):
        services.apply(layout, 0, mounts)
    assert list(services.store.layers.all()) == []


def test_writes_after_apply_cannot_be_committed(services: Services, layout: images.Layout) -> None:
    mounts = services.prepare("default/1/extract-1 x")
    services.apply(layout, 0, mounts)
    (mounts[0].upper / "late").write_bytes(b"x")
    with pytest.raises(StatusError) as raised:
        done(services.snapshots.commit("default/1/extract-1 x", "name", {}))
    assert raised.value.code == Code.FAILED_PRECONDITION


def test_a_commit_of_a_container_is_a_lower_directory_above_the_layers(
    services: Services, layout: images.Layout, tmp_path: Path
) -> None:
    mounts = services.prepare("container", services.pull(layout))
    with mounted(mounts, tmp_path / "target") as target:
        (target / "new").unlink()
        (target / "written").write_bytes(b"4")
    done(services.snapshots.commit("container", "image", {}))
    with mounted(services.prepare("next", "image"), tmp_path / "target") as target:
        assert sorted(os.listdir(target)) == ["d", "written"]


def test_a_view_of_one_layer_with_whiteouts_hides_them(services: Services, tmp_path: Path) -> None:
    layout = images.layout(tmp_path / "layout", [tar(directory("d"), opaque("d"), whiteout("x"))])
    top = services.pull(layout)
    mounts = done(services.snapshots.view("view", top, {}))
    with mounted(mounts, tmp_path / "target") as target:
        assert os.listdir(target) == ["d"]


def test_gc_keeps_the_layers_and_chains_of_snapshots(
    services: Services, layout: images.Layout
) -> None:
    top = services.pull(layout)
    services.prepare("container", top)
    assert collect_garbage(services.store) == []
    assert store_usage(services.store).unlisted == 0
    done(services.snapshots.remove("container"))
    assert [each.kind for each in collect_garbage(services.store)] == ["chain"]
    for each in sorted(done(services.snapshots.select([])), key=lambda found: -found.id):
        done(services.snapshots.remove(each.key))
    assert [each.kind for each in collect_garbage(services.store)] == ["layer", "layer"]


def test_rm_keeps_the_layers_of_snapshots(services: Services, layout: images.Layout) -> None:
    from tests.support.command import Stacker

    stacker = Stacker(services.store.root)
    stacker("pull", "--no-sync", layout.source)
    services.prepare("container", services.pull(layout))
    stacker("rm", "app:1.0")
    assert len(list(services.store.layers.all())) == 2
    assert len(list(services.store.chains.all())) == 1


def test_gc_refuses_to_run_without_a_readable_database(
    services: Services, layout: images.Layout
) -> None:
    services.pull(layout)
    services.close()
    services.snapshots.directories.database.write_bytes(b"not a database" * 100)
    with pytest.raises(IntegrityError, match="cannot read the snapshots"):
        collect_garbage(services.store)
    assert len(list(services.store.layers.all())) == 2


def remote(layout: images.Layout, number: int) -> dict[str, str]:
    """Return the labels that a client gives to the snapshot of a layer."""
    chain = chain_ids([DiffID.parse(each) for each in layout.image.diff_ids])
    return {
        "containerd.io/snapshot.ref": str(chain[number]),
        "containerd.io/snapshot/cri.layer-digest": layout.image.layers[number],
    }


def test_a_layer_of_the_store_needs_no_fetch(
    services: Services, layout: images.Layout, tmp_path: Path
) -> None:
    services.pull(layout)
    parent = ""
    for number in range(2):
        labels, key = remote(layout, number), f"other/{number}/extract-{number} x"
        with pytest.raises(StatusError) as raised:
            done(services.snapshots.prepare(key, parent, labels))
        assert raised.value.code == Code.ALREADY_EXISTS
        target = labels["containerd.io/snapshot.ref"]
        text = f'labels."containerd.io/snapshot.ref"=={target},parent=="{parent}"'
        [found] = done(services.snapshots.select([text]))
        assert (found.key, found.kind) == (f"other/{number}/{target}", Kind.COMMITTED)
        parent = found.key
    with mounted(services.prepare("container", parent), tmp_path / "target") as target_path:
        assert sorted(os.listdir(target_path)) == ["d", "new"]


def test_a_diff_id_finds_the_layer_without_its_blob(
    services: Services, layout: images.Layout
) -> None:
    services.pull(layout)
    labels = remote(layout, 0)
    del labels["containerd.io/snapshot/cri.layer-digest"]
    labels["containerd.io/snapshot/diff-id"] = layout.image.diff_ids[0]
    with pytest.raises(StatusError) as raised:
        done(services.snapshots.prepare("other/1/extract-1 x", "", labels))
    assert raised.value.code == Code.ALREADY_EXISTS


@pytest.mark.parametrize("name", ["snapshot.ref", "snapshot/cri.layer-digest"])
@pytest.mark.parametrize("value", [f"sha256:{'0' * 64}", "no digest"])
def test_a_layer_that_the_labels_do_not_name_is_fetched(
    services: Services, layout: images.Layout, name: str, value: str
) -> None:
    services.pull(layout)
    labels = remote(layout, 0) | {f"containerd.io/{name}": value}
    [mount] = done(services.snapshots.prepare("other/1/extract-1 x", "", labels))
    assert mount.type == "bind"
    assert done(services.snapshots.stat("other/1/extract-1 x")).diff_id is None


def test_a_client_without_the_label_never_gets_a_remote_snapshot(
    services: Services, layout: images.Layout
) -> None:
    services.pull(layout)
    labels = remote(layout, 0)
    del labels["containerd.io/snapshot.ref"]
    done(services.snapshots.prepare("other/1/extract-1 x", "", labels))


def test_a_layer_that_the_store_lacks_is_fetched(services: Services, layout: images.Layout) -> None:
    done(services.snapshots.prepare("other/1/extract-1 x", "", remote(layout, 0)))
    assert len(services.prepare("other/2/extract-2 x")) == 1
