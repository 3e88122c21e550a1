"""`stacker repair` replaces and seals layers."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import Stacker
from tests.support.damage import tree
from tests.support.images import layout
from tests.support.mounts import unmount_below
from tests.support.snapshot import snapshot
from tests.support.tars import dir as folder
from tests.support.tars import file, symlink, tar, whiteout
from tests.support.unpacking import needs_root


def test_repair_takes_kept_blobs_when_the_source_is_gone(
    stacker: Stacker, app: images.Layout
) -> None:
    stacker("pull", "--sync", "--keep-blobs", app.source)
    shutil.rmtree(app.path)
    (tree(stacker, app, 0) / "etc/hosts").unlink()
    stacker("repair", "app:1.0")
    stacker("verify", "--all")


def test_repair_without_any_source_names_each_reason(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", "--sync", app.source)
    shutil.rmtree(app.path)
    (tree(stacker, app, 0) / "etc/hosts").unlink()
    said = stacker.refused(5, "repair", "app:1.0")
    assert "kept blobs: " in said
    assert f"{app.source}: no such directory" in said


@needs_root
@pytest.mark.usefixtures("alone_among_mounts")
def test_repair_leaves_a_running_mount_its_files(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    stacker("pull", "--sync", app.source)
    stacker("mount", "app:1.0", target)
    try:
        (tree(stacker, app, 0) / "etc/hosts").unlink()
        with (target / "etc/passwd").open("rb") as passwd:
            stacker("repair", "app:1.0")
            assert stacker("gc").out == ""
            assert passwd.read() == (target / "etc/passwd").read_bytes() != b""
    finally:
        stacker("umount", target)
    assert {item["kind"] for item in stacker("gc", "--json").items} == {"chain", "layer"}
    stacker("verify", "--all")


def test_repair_seals_files_or_names_the_missing_feature(
    stacker: Stacker, app: images.Layout
) -> None:
    stacker("pull", "--sync", app.source)
    done = stacker.run("repair", "--seal", "--json", "app:1.0")
    if done.code == 0:
        assert done.document["sealed"] == 8
    else:
        assert done.code == 7
        assert done.out == ""
        (line,) = done.err.splitlines()
        assert json.loads(line)["error"]["message"].endswith(
            ": got a filesystem or a kernel without fs-verity, want CONFIG_FS_VERITY, and ext4 or "
            "f2fs with the feature `verity`, or btrfs"
        )
    stacker("verify", "--all")


def test_sealing_needs_verified_contents(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", "--sync", app.source)
    assert "got --seal and --fast" in stacker.refused(2, "repair", "--seal", "--fast", "app:1.0")


BEHIND_A_LINK = tar(whiteout("usr/lib/old"), file("lib/new", b"new"))


LINK = tar(symlink("lib", "usr/lib"), folder("usr/lib/"), file("usr/lib/old", b"old"))


@needs_root
@pytest.mark.usefixtures("alone_among_mounts")
@pytest.mark.parametrize("mounted", [False, True])
def test_repair_builds_stacks_with_files_of_the_damaged_layer_again(
    stacker: Stacker, tmp_path: Path, mounted: bool
) -> None:
    app = layout(tmp_path / "linked", [LINK, BEHIND_A_LINK], name="linked")
    stacker("pull", "--sync", app.source)
    stacker("unpack", "linked", tmp_path / "right")
    (tmp_path / "target").mkdir()
    try:
        if mounted:
            stacker("mount", "linked", tmp_path / "target")
        (damaged,) = stacker.store.glob("layers/sha256/*/diff/lib/new")
        damaged.write_bytes(b"bad")
        stacker("repair", "linked")
        stacker("unpack", "linked", tmp_path / "again")
        assert snapshot(tmp_path / "again") == snapshot(tmp_path / "right")
        stacker("gc")
        assert len(list(stacker.store.glob("chains/sha256/*.replaced-*"))) == int(mounted)
    finally:
        unmount_below(tmp_path)
    stacker("gc")
    assert not list(stacker.store.glob("*/sha256/*.replaced-*"))


def test_repair_takes_the_limits_that_the_pull_needed(stacker: Stacker, tmp_path: Path) -> None:
    deep = layout(tmp_path / "deep", [tar(file("a/b/c/d", b"1"))], name="deep")
    stacker("pull", "--sync", deep.source)
    (damaged,) = stacker.store.glob("layers/sha256/*/diff/a/b/c/d")
    damaged.chmod(0o600)
    said = stacker.refused(5, "repair", "deep", "--max-depth", "3")
    assert "over a limit" in said
    stacker("repair", "deep", "--max-depth", "4")
    stacker("verify", "--all")


def test_repair_takes_the_archive_ratio_that_the_pull_needed(
    stacker: Stacker, tmp_path: Path
) -> None:
    archive = tmp_path / "app.tar.gz"
    layout(tmp_path / "app", [tar(file("zeros", bytes(32 << 20)))], compression="none")
    plain = subprocess.run(
        ["tar", "-c", "-C", tmp_path / "app", "."], check=True, capture_output=True
    ).stdout
    archive.write_bytes(gzip.compress(plain))
    source = f"oci-archive:{archive}"
    assert "--max-archive-ratio" in stacker.refused(6, "pull", source)
    stacker("pull", "--sync", "--max-archive-ratio", "1000000", source)
    next(stacker.store.glob("layers/sha256/*/diff/zeros")).chmod(0o600)
    assert "archive" in stacker.refused(5, "repair", "--all")
    stacker("repair", "--all", "--max-archive-ratio", "1000000")
    stacker("verify", "--all")
