"""`stacker gc` removes what nothing needs, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from stacker.errors import LockedError
from stacker.image.digest import DiffID, ImageID
from stacker.linux import lock
from stacker.operations.gc import collect_garbage
from stacker.operations.remove import MountedParts
from stacker.store.store import Store
from tests.support import images
from tests.support.command import Stacker
from tests.support.images import layout
from tests.support.tars import file, hardlink, tar, whiteout

LOWER, UPPER, OTHER = (
    tar(file("etc/lower", b"lower")),
    tar(whiteout("etc/lower"), file("etc/upper", b"upper")),
    tar(file("other", b"other")),
)
DATA, LINK = tar(file("d/data", b"x" * 100_000)), tar(hardlink("d/link", "d/data"))


@pytest.fixture
def app(tmp_path: Path) -> images.Layout:
    return layout(tmp_path / "app", [LOWER, UPPER])


@pytest.fixture
def other(tmp_path: Path) -> images.Layout:
    return layout(tmp_path / "other", [LOWER, OTHER], name="other")


def unlist(stacker: Stacker) -> None:
    """Forget every image, as an `rm` that was killed halfway."""
    index = stacker.store / "images.json"
    document = json.loads(index.read_bytes())
    index.write_text(json.dumps({**document, "manifests": []}))


def allocated(stacker: Stacker) -> int:
    words = ["du", "-s", "--block-size=1", str(stacker.store)]
    return int(subprocess.run(words, check=True, capture_output=True).stdout.split()[0])


def kinds(stacker: Stacker, *words: str) -> list[str]:
    return sorted(item["kind"] for item in stacker("gc", *words, "--json").items)


def test_gc_of_a_store_in_use_removes_nothing(
    stacker: Stacker, app: images.Layout, other: images.Layout
) -> None:
    stacker("pull", "--sync", app.source)
    stacker("pull", "--keep-blobs", other.source)
    stacker("index", "create", "both", "app:1.0", "other")
    assert kinds(stacker, "--untagged") == []
    stacker("verify", "--all")
    stacker("index", "inspect", "both")


def test_gc_removes_layers_stacks_and_documents_that_no_image_lists(
    stacker: Stacker, app: images.Layout, other: images.Layout
) -> None:
    stacker("pull", "--sync", app.source)
    unlist(stacker)
    stacker("pull", other.source)
    found = kinds(stacker, "--dry-run")
    assert found == ["blob", "blob", "chain", "layer"]
    assert kinds(stacker, "--dry-run") == found
    assert kinds(stacker) == found
    assert kinds(stacker) == []
    stacker("verify", "--all")
    stacker("rm", "other")
    stacker.assert_clean()


def test_gc_keeps_what_is_younger_than_the_given_age(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", "--sync", app.source)
    unlist(stacker)
    assert kinds(stacker, "--older-than", "1h") == []
    for path in (stacker.store / "layers/sha256").iterdir():
        if path.is_dir():
            os.utime(path, (0, 0))
    assert kinds(stacker, "--older-than", "1h") == ["layer", "layer"]


@pytest.mark.parametrize("age", ["", "-1", "1y", "h", "1.5h"])
def test_an_age_without_a_meaning_is_a_usage_error(stacker: Stacker, age: str) -> None:
    assert "want a number and s, m, h or d" in stacker.refused(2, "gc", f"--older-than={age}")


def test_gc_keeps_the_layers_of_a_running_pull(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", "--sync", app.source)
    unlist(stacker)
    with lock.shared(stacker.store / "pull.lock"):
        assert kinds(stacker) == []
    assert kinds(stacker) == ["blob", "blob", "chain", "layer", "layer"]


def test_gc_keeps_a_layer_that_another_process_reads(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", "--sync", app.source)
    unlist(stacker)
    with Store(stacker.store).layers.reading([DiffID.parse(app.image.diff_ids[0])]):
        assert kinds(stacker) == ["blob", "blob", "chain", "layer"]
    assert kinds(stacker) == ["layer"]


def test_gc_sweeps_the_files_of_killed_processes(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", "--sync", app.source)
    (stacker.store / "staging/spool-1").mkdir()
    (stacker.store / "staging/spool-1/archive").write_bytes(b"x" * 5000)
    (stacker.store / ".index.json.999999.new").write_bytes(b"half")
    (stacker.store / "blobs/sha256/.abc.12.new").write_bytes(b"half")
    (chain,) = stacker.store.glob("chains/sha256/*")
    (chain / ".chain.json.12.new").write_bytes(b"half")
    (stacker.store / "partial").mkdir(exist_ok=True)
    (stacker.store / "partial/sha256-ab").write_bytes(b"half")
    os.utime(stacker.store / "partial/sha256-ab", (0, 0))
    assert kinds(stacker) == ["partial", "staging", *["temporary"] * 3]
    stacker.assert_clean(images=1, layers=2)


def test_gc_leaves_the_staging_of_a_running_process(stacker: Stacker) -> None:
    Store.open(stacker.store)
    held = stacker.store / "staging/spool-1"
    held.mkdir()
    with lock.exclusive(stacker.store / "staging/spool-1.lock"):
        assert kinds(stacker) == []
        assert held.exists()
    assert kinds(stacker) == ["staging"]


def test_dry_run_lists_no_file_that_a_running_process_has_locked(stacker: Stacker) -> None:
    Store.open(stacker.store)
    places = ("", "blobs/sha256", "indexes")
    for place in places:
        (stacker.store / place).mkdir(exist_ok=True)
    (stacker.store / "partial").mkdir()
    held = [stacker.store / place / ".document.12.new" for place in places]
    held += [stacker.store / "partial/sha256-ab", stacker.store / "staging/spool-1.lock"]
    (stacker.store / "staging/spool-1").write_bytes(b"half")
    with ExitStack() as locks:
        for path in held:
            locks.enter_context(lock.exclusive(path))
            os.utime(path, (0, 0))
        assert kinds(stacker, "--dry-run") == []
        assert kinds(stacker) == []
        assert all(path.exists() for path in held)
    found = ["partial", "staging", "temporary", "temporary", "temporary"]
    assert kinds(stacker, "--dry-run") == found
    assert kinds(stacker) == found


def test_dry_run_lists_what_a_run_removes(
    stacker: Stacker, app: images.Layout, other: images.Layout, tmp_path: Path
) -> None:
    """Two images without a name share a layer, and an unlisted one has a fixup of hard links."""
    stacker("pull", "--sync", layout(tmp_path / "linked", [DATA, LINK]).source)
    unlist(stacker)
    for each, layers in (("one", [LOWER, UPPER]), ("two", [LOWER, OTHER])):
        stacker("pull", "--sync", layout(tmp_path / each, layers, name=None).source)
    stacker("pull", "--sync", layout(tmp_path / "named", [OTHER], name="named").source)
    (stacker.store / "staging/spool-1").write_bytes(b"x" * 50_000)
    (stacker.store / "mounts/0123456789ab/upper").mkdir(parents=True)
    (stacker.store / "mounts/0123456789ab/upper/file").write_bytes(b"x" * 50_000)
    would = stacker("gc", "--untagged", "--dry-run", "--json").items
    assert stacker("gc", "--untagged", "--dry-run", "--json").items == would
    before = allocated(stacker)
    assert stacker("gc", "--untagged", "--json").items == would
    assert allocated(stacker) == before - sum(item["bytes"] for item in would)
    sizes = {item["kind"]: item["bytes"] for item in would}
    assert set(sizes) == {"image", "layer", "chain", "blob", "staging", "mount"}
    assert all(sizes.values())
    stacker("verify", "--all")
    stacker("rm", "named")
    stacker.assert_clean()


def test_dry_run_lists_no_image_that_another_process_reads(
    stacker: Stacker, tmp_path: Path
) -> None:
    nameless = layout(tmp_path / "nameless", [OTHER], name=None)
    stacker("pull", "--sync", nameless.source)
    with Store(stacker.store).images.reading(ImageID.parse(nameless.image.config)):
        assert kinds(stacker, "--untagged", "--dry-run") == []
        assert kinds(stacker, "--untagged") == []
    assert kinds(stacker, "--untagged", "--dry-run") == kinds(stacker, "--untagged") == ["image"]


def test_gc_keeps_a_replaced_layer_that_another_process_reads(
    stacker: Stacker, app: images.Layout
) -> None:
    stacker("pull", "--sync", "--keep-blobs", app.source)
    next(stacker.store.glob("layers/sha256/*/diff/etc/upper")).write_bytes(b"wrong")
    diff_id = DiffID.parse(app.image.diff_ids[1])
    with Store(stacker.store).layers.reading([diff_id]):
        stacker("repair", "--all")
        # No mount uses the chain that `repair` built again.
        assert kinds(stacker, "--dry-run") == kinds(stacker) == ["chain"]
        assert kinds(stacker) == []
    (found,) = stacker("gc", "--json").items
    assert found["kind"] == "layer"
    assert found["name"].startswith(f"{diff_id.hex}.replaced-")
    stacker("verify", "--all")


def test_untagged_images_are_removed_only_with_the_option(stacker: Stacker, tmp_path: Path) -> None:
    nameless = layout(tmp_path / "nameless", [OTHER], name=None)
    stacker("pull", nameless.source)
    assert kinds(stacker) == []
    assert "image" in kinds(stacker, "--untagged")
    stacker.assert_clean()


def test_gc_removes_an_image_whose_manifest_is_damaged(
    stacker: Stacker, app: images.Layout, other: images.Layout
) -> None:
    stacker("pull", "--sync", app.source)
    stacker("pull", other.source)
    (stacker.store / "blobs/sha256" / app.image.manifest.partition(":")[2]).write_bytes(b"")
    listed = stacker("images", "--json").items
    assert [item["names"] for item in listed] == [["other"]]
    assert "image" in kinds(stacker)
    stacker("verify", "--all")
    stacker("rm", "other")
    stacker.assert_clean()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_damaged_list_of_images_hides_no_image(
    stacker: Stacker, app: images.Layout, other: images.Layout, content: bytes, tmp_path: Path
) -> None:
    stacker("pull", "--sync", app.source)
    stacker("pull", other.source)
    (stacker.store / "images.json").write_bytes(content)
    said = stacker("images")
    assert "the names of all images are lost" in said.err
    assert len(stacker("images", "--json").items) == 2
    stacker("df")
    stacker("unpack", app.image.config, tmp_path / "tree")
    assert (tmp_path / "tree/etc/upper").read_bytes() == b"upper"
    stacker("pull", "--sync", app.source)
    assert [item["names"] for item in stacker("images", "--json").items if item["names"]] == [
        ["app:1.0"]
    ]
    assert len(stacker("images", "--json").items) == 2


def test_a_damaged_config_hides_no_other_image_and_can_be_pulled_again(
    stacker: Stacker, app: images.Layout, other: images.Layout
) -> None:
    stacker("pull", "--sync", app.source)
    stacker("pull", other.source)
    (stacker.store / "blobs/sha256" / app.image.config.partition(":")[2]).write_bytes(b"")
    said = stacker("images")
    assert "image app:1.0: damaged blob" in said.err
    stacker("df")
    stacker("verify", "other")
    assert stacker.run("verify", "--all").code == 5
    stacker("pull", "--sync", app.source)
    stacker("verify", "--all")


def test_rm_removes_an_image_with_a_damaged_config(
    stacker: Stacker, app: images.Layout, other: images.Layout
) -> None:
    stacker("pull", "--sync", app.source)
    stacker("pull", other.source)
    (stacker.store / "blobs/sha256" / app.image.config.partition(":")[2]).write_bytes(b"")
    stacker("rm", "app:1.0")
    stacker("gc")
    stacker("rm", "other")
    shutil.rmtree(app.path)
    stacker.assert_clean()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts with overlayfs: needs root")
@pytest.mark.usefixtures("alone_among_mounts")
def test_gc_keeps_the_layers_and_the_chain_of_a_mount_whose_config_is_damaged(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    stacker("pull", "--sync", app.source)
    stacker("mount", "app:1.0", target)
    try:
        (stacker.store / "blobs/sha256" / app.image.config.partition(":")[2]).write_bytes(b"")
        assert kinds(stacker, "--dry-run") == []
        assert kinds(stacker) == []
        assert (target / "etc/upper").read_bytes() == b"upper"
        assert len(list(stacker.store.glob("chains/sha256/*"))) == 1
    finally:
        stacker("umount", target)
    assert kinds(stacker) == ["chain", "layer", "layer"]


def test_gc_reads_the_mount_table_once_and_after_it_locked_the_layers(
    stacker: Stacker, app: images.Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount in progress holds the lock of its layers; a finished one is in the table."""
    stacker("pull", "--sync", app.source)
    unlist(stacker)
    store, order = Store(stacker.store), list[str]()
    layer = DiffID.parse(app.image.diff_ids[0])
    read = MountedParts.read

    def reading(store: Store) -> MountedParts:
        with pytest.raises(LockedError), store.layers.removing([layer]):
            pass
        order.append("read")
        return read(store)

    monkeypatch.setattr(MountedParts, "read", reading)
    assert sorted(each.kind for each in collect_garbage(store)) == [
        "blob",
        "blob",
        "chain",
        "layer",
        "layer",
    ]
    assert order == ["read"]


def test_gc_removes_lock_files_of_earlier_versions_unless_a_process_has_one(
    stacker: Stacker, app: images.Layout
) -> None:
    stacker("pull", "--sync", app.source)
    stacker("gc")  # creates the locks that it takes
    before = set(stacker.store.rglob("*.lock"))
    free, held = (stacker.store / f"layers/sha256/{digit * 64}.lock" for digit in "01")
    free.touch()
    held.touch()
    with lock.shared(held):
        assert kinds(stacker, "--dry-run") == ["temporary"]
        assert free.exists()
        assert kinds(stacker) == ["temporary"]
    assert set(stacker.store.rglob("*.lock")) == {*before, held}
    assert kinds(stacker) == ["temporary"]
    assert kinds(stacker) == []
