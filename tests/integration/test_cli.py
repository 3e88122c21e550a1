"""Pull, mount and unpack by the real command, from an image on disk to a root filesystem."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from stacker.linux.removal import remove_tree
from tests.support import images
from tests.support.command import REPOSITORY, Stacker, conforming
from tests.support.sample import BASE, MIDDLE, TOP
from tests.support.snapshot import Node, snapshot
from tests.support.tars import MTIME, dir, file, symlink, tar  # noqa: A004 - the word for it
from tests.support.unprivileged import UNPRIVILEGED

CORPORA = Path(os.environ.get("STACKER_CORPORA", REPOSITORY / "../shared/corpora")).resolve()
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


@pytest.fixture
def app(tmp_path: Path) -> images.Layout:
    return images.layout(tmp_path / "app", [BASE, MIDDLE, TOP])


def shown(layer: Path) -> dict[bytes, Node]:
    """Return a layer's tree, without the mtime of whiteouts."""
    return {
        path: replace(node, mtime=0) if node.kind == "char" else node
        for path, node in snapshot(layer).items()
    }


def test_image_is_pulled_mounted_and_unmounted(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    assert stacker("pull", app.source).last == app.image.config
    driver = stacker("mount", "app:1.0", target).last
    assert driver == ("overlay" if os.geteuid() == 0 else "copy")
    assert (target / "etc/kept").read_bytes() == b"changed"
    assert not (target / "etc/gone").exists()
    assert (target / "tool").stat().st_ino == (target / "bin/tool").stat().st_ino
    assert (target / "bin/tool").stat().st_mode & 0o7777 == 0o4755
    (mount,) = conforming(stacker("mounts", "--json").document)["items"]
    assert (mount["target"], mount["image_id"]) == (str(target), app.image.config)
    assert str(target) in stacker("mounts").out
    stacker("umount", target)
    assert os.listdir(target) == []
    assert stacker("mounts", "--json").items == []
    stacker.assert_clean(images=1, layers=3)


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_image_id_does_not_depend_on_compression(
    stacker: Stacker, tmp_path: Path, compression: images.Compression
) -> None:
    app = images.layout(tmp_path / "app", [BASE, TOP], compression=compression)
    plain = images.layout(tmp_path / "plain", [BASE, TOP], compression="none")
    assert stacker("pull", app.source).last == plain.image.config
    assert (stacker("pull", plain.source, "--json").out.count("layer-unpacked")) == 0


def test_archives_are_pulled(stacker: Stacker, app: images.Layout, tmp_path: Path) -> None:
    plain = tmp_path / "plain.tar"
    with tarfile.open(plain, "w") as packed:
        packed.add(app.path, ".")
    (tmp_path / "packed.tar").write_bytes(gzip.compress(plain.read_bytes()))
    for archive in (plain, tmp_path / "packed.tar"):
        assert stacker("pull", f"oci-archive:{archive}:app:1.0").last == app.image.config
    assert len(stacker("images", "--json").items) == 1
    stacker.assert_clean(images=2, layers=3)  # one image, listed for each source


@needs_root
def test_mount_is_read_only_without_rw(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    stacker("pull", app.source)
    stacker("mount", "app:1.0", target)
    with pytest.raises(OSError, match="Read-only"):
        (target / "new").write_text("")
    stacker("umount", target)
    stacker("mount", "app:1.0", target, "--rw")
    (target / "new").write_text("")
    stacker("umount", target)
    stacker("mount", "app:1.0", target, "--rw")
    assert not (target / "new").exists()
    stacker("umount", target)


@needs_root
def test_upper_directory_keeps_writes(stacker: Stacker, app: images.Layout, tmp_path: Path) -> None:
    target, upper = tmp_path / "target", tmp_path / "changes"
    target.mkdir()
    stacker("pull", app.source)
    for _ in range(2):
        stacker("mount", "app:1.0", target, "--upper", upper)
        with (target / "log").open("a") as log:
            log.write("x")
        stacker("umount", target)
    assert (upper / "log").read_text() == "xx"
    assert sorted(os.listdir(tmp_path)) == ["app", "changes", "home", "store", "target"]


@needs_root
def test_command_runs_in_a_mounted_image(stacker: Stacker, tmp_path: Path) -> None:
    layout = CORPORA / "images" / "busybox-musl-oci"
    if not layout.is_dir():
        pytest.skip(f"no images in {CORPORA}")
    target = tmp_path / "target"
    target.mkdir()
    stacker("pull", f"oci:{layout}")
    stacker("mount", "busybox:1.38.0-musl", target)
    command = ["chroot", str(target), "/bin/sh", "-c", "echo $((6 * 7))"]
    assert subprocess.run(command, check=True, capture_output=True).stdout == b"42\n"
    stacker("umount", target)


@needs_root
def test_fallback_driver_is_explained_in_one_line(app: images.Layout, tmp_path: Path) -> None:
    # A user namespace without its own mount namespace cannot mount.
    inside = Stacker(tmp_path / "store", wrap=("unshare", "--user", "--map-root-user"))
    target = tmp_path / "target"
    target.mkdir()
    inside("pull", app.source)
    result = inside("mount", "app:1.0", target)
    assert result.last == "copy"
    (line,) = [line for line in result.err.splitlines() if "because" in line]
    assert line.startswith("stacker: mounted by copy, because ")
    assert (target / "etc/kept").read_bytes() == b"changed"
    assert inside("--quiet", "umount", target).err == ""
    assert os.listdir(target) == []


@needs_root
@pytest.mark.usefixtures("alone_among_mounts")
def test_user_namespace_mounts_squashed_layers_by_overlay(
    app: images.Layout, tmp_path: Path
) -> None:
    inside = Stacker(tmp_path / "store", wrap=("unshare", "--user", "--map-root-user", "--mount"))
    target = tmp_path / "target"
    target.mkdir()
    inside("pull", app.source)
    layers = inside("layers", "app:1.0", "--json").items
    assert {(layer["whiteout_format"], layer["squashed"]) for layer in layers} == {("user", True)}
    script = "stacker() { python=$1; store=$2; shift 2; $python -m stacker --store $store $@; }; "
    script += 'stacker "$1" "$2" mount app:1.0 "$3" && cat "$3/etc/kept" && ls "$3/etc"'
    words = [*inside.wrap, "sh", "-c", script, "-", sys.executable, str(inside.store), str(target)]
    done = subprocess.run(words, check=True, capture_output=True, env=inside.environment)
    assert done.stdout == b"overlay\nchangedkept\n"
    # The end of the namespace has removed its mount.
    cleared = inside("mounts")
    assert "cleared" in cleared.err
    assert str(target) in cleared.err


@pytest.fixture
def unprivileged() -> Iterator[Stacker]:
    """Return the command of an unprivileged user, who owns the directory of the store."""
    if os.geteuid() != 0:
        pytest.skip("only root can change to another user")
    directory = Path(tempfile.mkdtemp(prefix="stacker-test-"))
    os.chown(directory, 65534, 65534)
    for python in (sys.executable, "/usr/bin/python3"):
        stacker = Stacker(directory / "store", wrap=UNPRIVILEGED, python=python)
        words = [*UNPRIVILEGED, python, "-c", "import stacker, isal.igzip_lib, zstandard, xattr"]
        if not subprocess.run(words, check=False, env=stacker.environment, cwd="/").returncode:
            break
    else:
        pytest.skip("no interpreter that an unprivileged user can start")
    yield stacker
    remove_tree(directory)


def test_unprivileged_user_pulls_unpacks_and_mounts_a_copy(
    unprivileged: Stacker, app: images.Layout
) -> None:
    directory = unprivileged.store.parent
    shutil.copytree(app.path, directory / "app")
    (directory / "target").mkdir()
    os.chown(directory / "target", 65534, 65534)
    assert unprivileged("pull", f"oci:{directory}/app", cwd=directory).last == app.image.config
    result = unprivileged("mount", "app:1.0", "target", cwd=directory)
    assert result.last == "copy"
    assert "no permission to mount" in result.err
    unprivileged("unpack", "app:1.0", directory / "tree", cwd=directory)
    assert (directory / "tree/etc/kept").read_bytes() == b"changed"
    assert (directory / "tree/etc/kept").stat().st_uid == 65534
    assert sorted(os.listdir(directory / "tree/etc")) == ["kept"]
    assert sorted(os.listdir(directory / "target")) == sorted(os.listdir(directory / "tree"))
    unprivileged("umount", directory / "target", cwd=directory)
    unprivileged("rm", "app:1.0", cwd=directory)
    unprivileged.assert_clean(layers=0)


def test_unprivileged_user_keeps_unreadable_files(unprivileged: Stacker, tmp_path: Path) -> None:
    directory = unprivileged.store.parent
    closed = tar(dir("etc/"), file("etc/gshadow", b"secret", mode=0), symlink("lib", "usr"))
    app = images.layout(directory / "app", [closed, tar(file("lib/sudo", b"s", mode=0o111))])
    (directory / "target").mkdir()
    os.chown(directory / "target", 65534, 65534)
    unprivileged("pull", app.source, cwd=directory)
    unprivileged("mount", "--driver", "copy", "app:1.0", "target", cwd=directory)
    unprivileged("unpack", "app:1.0", directory / "tree", cwd=directory)
    for tree in (directory / "target", directory / "tree"):
        assert (tree / "etc/gshadow").read_bytes() == b"secret"
        assert (tree / "etc/gshadow").stat().st_mode & 0o7777 == 0
        assert (tree / "usr/sudo").stat().st_mode & 0o7777 == 0o111
    unprivileged("push", "app:1.0", f"oci:{directory}/again:1.0", cwd=directory)
    diffs = unprivileged.store.glob("layers/sha256/*/diff")
    modes = [path.stat().st_mode & 0o7777 for diff in diffs for path in diff.glob("*/gshadow")]
    assert modes == [0]


def test_print_plan_does_not_mount(stacker: Stacker, app: images.Layout, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    stacker("pull", app.source)
    document = conforming(stacker("mount", "app:1.0", target, "--rw", "--print-plan").document)
    plan = document["item"]["plan"]
    assert plan["target"] == str(target)
    assert plan["read_only"] is False
    # Topmost first; the fixup layer with the hard link is another layer.
    assert [Path(layer).parts[-4:-3] for layer in plan["layers"]].count(("layers",)) == 3
    assert os.listdir(target) == []
    assert stacker("mounts", "--json").items == []
    stacker.assert_clean(images=1, layers=3)


def test_unpacked_directory_equals_the_mount(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    stacker("pull", app.source)
    assert stacker("unpack", "app:1.0", tmp_path / "tree").last == str(tmp_path / "tree")
    stacker("mount", "app:1.0", target)
    assert snapshot(tmp_path / "tree") == snapshot(target)
    stacker("umount", target)
    assert (tmp_path / "tree" / "etc").stat().st_mtime == MTIME


def test_unpack_prints_the_directory_verbatim(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    (tmp_path / "caf\udce9").mkdir()
    stacker("pull", app.source)
    assert stacker("unpack", "app:1.0", "caf\udce9", cwd=tmp_path).out == "caf\udce9\n"
    assert (tmp_path / "caf\udce9/top").stat().st_size == 70_000


def test_image_without_layers_is_an_empty_directory(stacker: Stacker, tmp_path: Path) -> None:
    empty = images.layout(tmp_path / "app", [])
    (tmp_path / "target").mkdir()
    stacker("pull", empty.source)
    stacker("unpack", "app:1.0", tmp_path / "tree")
    assert os.listdir(tmp_path / "tree") == []
    stacker("mount", "app:1.0", tmp_path / "target")
    assert os.listdir(tmp_path / "target") == []
    stacker("umount", tmp_path / "target")


@pytest.mark.parametrize("jobs", [1, 8])
def test_result_does_not_depend_on_jobs(tmp_path: Path, jobs: int) -> None:
    layers = [tar(file(f"f{n}", bytes([n]) * 100_000), file("same", b"%d" % n)) for n in range(12)]
    app = images.layout(tmp_path / "app", [BASE, *layers, MIDDLE])
    one, many = Stacker(tmp_path / "one"), Stacker(tmp_path / "many")
    one("pull", app.source, "--jobs", "1")
    many("pull", app.source, "--jobs", str(jobs))
    for layer in one.layers():
        other = many.store / layer.relative_to(one.store)
        assert shown(layer / "diff") == shown(other / "diff")
    one("unpack", "app:1.0", tmp_path / "1")
    many("unpack", "app:1.0", tmp_path / "2")
    assert snapshot(tmp_path / "1") == snapshot(tmp_path / "2")


def test_second_pull_reads_no_layer(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", app.source)
    for digest in app.image.layers:
        app.blob(digest).unlink()
    result = stacker("pull", app.source, "-v")
    assert result.last == app.image.config
    assert result.err.splitlines() == [
        f"already in the store: layer {diff_id}" for diff_id in app.image.diff_ids
    ]


def test_shared_layer_is_not_read_again(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    other = images.layout(tmp_path / "other", [BASE, TOP], name="other:1.0")
    stacker("pull", app.source)
    for digest in other.image.layers:
        other.blob(digest).unlink()
    assert stacker("pull", other.source).last == other.image.config


def test_concurrent_pulls_unpack_each_layer_once(stacker: Stacker, tmp_path: Path) -> None:
    layers = [tar(*(file(f"{n}/{m}", bytes(500)) for m in range(1500))) for n in range(4)]
    app = images.layout(tmp_path / "app", layers)
    stacker("images")  # creates the store, so that the pulls do not race for it

    def pull(_: int) -> list[str]:
        lines = stacker("pull", app.source, "--json").out.splitlines()
        events = [conforming(json.loads(line)) for line in lines]
        return [
            event["diff_id"]
            for event in events
            if event["kind"] == "layer-unpacked" and event["entries"] is not None
        ]

    with ThreadPoolExecutor(3) as pool:
        unpacked = [diff_id for one in pool.map(pull, range(3)) for diff_id in one]
    assert sorted(unpacked) == sorted(app.image.diff_ids)
    stacker.assert_clean(images=1, layers=4)


def test_concurrent_pulls_create_one_store(app: images.Layout, tmp_path: Path) -> None:
    stacker = Stacker(tmp_path / "store")
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: stacker("pull", app.source), range(4)):
            assert result.last == app.image.config
    stacker.assert_clean(images=1, layers=3)


def test_platform_option_selects_an_image_of_an_index(stacker: Stacker, tmp_path: Path) -> None:
    both = [(("linux", "amd64"), [BASE]), (("linux", "arm64"), [BASE, TOP])]
    layout = images.several(tmp_path / "app", both)
    for image, platform in zip(layout.images, ("linux/amd64", "linux/arm64/v8"), strict=True):
        assert stacker("pull", layout.source, "--platform", platform).last == image.config
    assert len(stacker("images", "--json").items) == 2


@needs_root
def test_300_layers_are_mounted(stacker: Stacker, tmp_path: Path) -> None:
    layers = [tar(file(f"f{n}", b"%d" % n)) for n in range(300)]
    app = images.layout(tmp_path / "app", layers, compression="none")
    (tmp_path / "target").mkdir()
    stacker("pull", app.source)
    stacker("mount", "app:1.0", tmp_path / "target")
    assert len(os.listdir(tmp_path / "target")) == 300
    stacker("umount", tmp_path / "target")


@needs_root
def test_repeated_layer_is_mounted(stacker: Stacker, tmp_path: Path) -> None:
    app = images.layout(tmp_path / "app", [BASE, MIDDLE, BASE])
    (tmp_path / "target").mkdir()
    stacker("pull", app.source)
    stacker("mount", "app:1.0", tmp_path / "target")
    assert (tmp_path / "target/etc/gone").read_bytes() == b"old"
    stacker("umount", tmp_path / "target")


@pytest.mark.parametrize(
    ("archive", "name", "entries"),
    [
        ("alpine-3.11-docker-archive.tar.gz", "alpine:3.11", {"bin", "etc", "usr"}),
        ("dive-14-layers-docker-archive.tar", "dive-test:latest", {"bin", "root", "tmp"}),
    ],
)
def test_real_docker_archive_is_unpacked(
    stacker: Stacker, tmp_path: Path, archive: str, name: str, entries: set[str]
) -> None:
    path = CORPORA / "images" / archive
    if not path.exists():
        pytest.skip(f"no images in {CORPORA}")
    stacker("pull", f"docker-archive:{path}")
    stacker("unpack", name, tmp_path / "tree")
    assert entries <= set(os.listdir(tmp_path / "tree"))
