"""Every verb through the real command, from an image on disk to a root filesystem and back."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stacker.linux.removal import remove_tree
from tests.support import images
from tests.support.command import REPOSITORY, Stacker, conforming
from tests.support.mounts import unmount_below
from tests.support.snapshot import Node, snapshot
from tests.support.tars import MTIME, dir, file, hardlink, symlink, tar, whiteout  # noqa: A004 - the word for it
from tests.support.unprivileged import UNPRIVILEGED

CORPORA = Path(os.environ.get("STACKER_CORPORA", REPOSITORY / "../shared/corpora")).resolve()
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")

BASE = tar(
    dir(".", mode=0o755),
    dir("bin/"),
    file("bin/tool", b"#!/bin/sh\n", mode=0o4755),
    dir("etc/", mode=0o750, uid=1, gid=2),
    file("etc/gone", b"old"),
    file("etc/kept", b"kept", xattrs={"user.note": b"1"}),
    symlink("sh", "bin/tool"),
)
MIDDLE = tar(file("etc/kept", b"changed"), whiteout("etc/gone"), hardlink("tool", "bin/tool"))
TOP = tar(file("top", bytes(70_000)))


@pytest.fixture
def stacker(tmp_path: Path) -> Iterator[Stacker]:
    yield Stacker(tmp_path / "store")
    unmount_below(tmp_path)


@pytest.fixture
def app(tmp_path: Path) -> images.Layout:
    return images.layout(tmp_path / "app", [BASE, MIDDLE, TOP])


def shown(layer: Path) -> dict[bytes, Node]:
    """Give a layer's tree; when a whiteout was made, nobody sees."""
    return {
        path: replace(node, mtime=0) if node.kind == "char" else node
        for path, node in snapshot(layer).items()
    }


def test_an_image_is_pulled_mounted_and_taken_away(
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
def test_an_image_has_one_id_however_its_layers_are_compressed(
    stacker: Stacker, tmp_path: Path, compression: images.Compression
) -> None:
    app = images.layout(tmp_path / "app", [BASE, TOP], compression=compression)
    plain = images.layout(tmp_path / "plain", [BASE, TOP], compression="none")
    assert stacker("pull", app.source).last == plain.image.config
    assert (stacker("pull", plain.source, "--json").out.count("layer-unpacked")) == 0


def test_archives_are_pulled_like_layouts(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    plain = tmp_path / "plain.tar"
    with tarfile.open(plain, "w") as packed:
        packed.add(app.path, ".")
    (tmp_path / "packed.tar").write_bytes(gzip.compress(plain.read_bytes()))
    for archive in (plain, tmp_path / "packed.tar"):
        assert stacker("pull", f"oci-archive:{archive}:app:1.0").last == app.image.config
    assert len(stacker("images", "--json").items) == 1
    stacker.assert_clean(images=2, layers=3)  # one image, listed once for each source


@needs_root
def test_a_mount_is_read_only_unless_asked_otherwise(
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
def test_an_upper_directory_takes_writes_and_keeps_them(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    target, upper = tmp_path / "target", tmp_path / "changes"
    target.mkdir()
    stacker("pull", app.source)
    for _ in range(2):
        stacker("mount", "app:1.0", target, "--upper", upper)
        with (target / "log").open("a") as log:
            log.write("x")
        stacker("umount", target)
    assert (upper / "log").read_text() == "xx"
    assert sorted(os.listdir(tmp_path)) == ["app", "changes", "store", "target"]


@needs_root
def test_a_command_runs_inside_a_mounted_image(stacker: Stacker, tmp_path: Path) -> None:
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
def test_a_driver_that_is_not_the_first_choice_is_explained_in_one_line(
    app: images.Layout, tmp_path: Path
) -> None:
    # In a user namespace without a mount namespace of its own nothing can be mounted.
    inside = Stacker(tmp_path / "store", wrap=("unshare", "--user", "--map-root-user"))
    target = tmp_path / "target"
    target.mkdir()
    inside("pull", app.source)
    result = inside("mount", "app:1.0", target)
    assert result.last == "copy"
    (line,) = [line for line in result.err.splitlines() if "since" in line]
    assert line.startswith("stacker: mounted by copy, because ")
    assert (target / "etc/kept").read_bytes() == b"changed"
    assert inside("--quiet", "umount", target).err == ""
    assert os.listdir(target) == []


@needs_root
@pytest.mark.usefixtures("alone_among_mounts")
def test_in_a_user_namespace_layers_are_the_users_and_overlay_mounts(
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
    # The namespace is gone, and the mount with it.
    cleared = inside("mounts")
    assert "cleared" in cleared.err
    assert str(target) in cleared.err


@pytest.fixture
def unprivileged() -> Iterator[Stacker]:
    """The command as a user without any privilege, in a directory that is theirs."""
    if os.geteuid() != 0:
        pytest.skip("only root can change to another user")
    place = Path(tempfile.mkdtemp(prefix="stacker-test-"))
    os.chown(place, 65534, 65534)
    for python in (sys.executable, "/usr/bin/python3"):
        stacker = Stacker(place / "store", wrap=UNPRIVILEGED, python=python)
        words = [*UNPRIVILEGED, python, "-c", "import stacker, isal.igzip_lib, zstandard, xattr"]
        if not subprocess.run(words, check=False, env=stacker.environment, cwd="/").returncode:
            break
    else:
        pytest.skip("no interpreter that an unprivileged user can start")
    yield stacker
    remove_tree(place)


def test_an_unprivileged_user_pulls_unpacks_and_mounts_a_copy(
    unprivileged: Stacker, app: images.Layout
) -> None:
    place = unprivileged.store.parent
    shutil.copytree(app.path, place / "app")
    (place / "target").mkdir()
    os.chown(place / "target", 65534, 65534)
    assert unprivileged("pull", f"oci:{place}/app", cwd=place).last == app.image.config
    result = unprivileged("mount", "app:1.0", "target", cwd=place)
    assert result.last == "copy"
    assert "no permission to mount" in result.err
    unprivileged("unpack", "app:1.0", place / "tree", cwd=place)
    assert (place / "tree/etc/kept").read_bytes() == b"changed"
    assert (place / "tree/etc/kept").stat().st_uid == 65534
    assert sorted(os.listdir(place / "tree/etc")) == ["kept"]
    assert sorted(os.listdir(place / "target")) == sorted(os.listdir(place / "tree"))
    unprivileged("umount", place / "target", cwd=place)
    unprivileged("rm", "app:1.0", cwd=place)
    unprivileged.assert_clean(layers=0)


def test_an_unprivileged_user_has_files_that_deny_their_owner_to_read_them(
    unprivileged: Stacker, tmp_path: Path
) -> None:
    place = unprivileged.store.parent
    closed = tar(dir("etc/"), file("etc/gshadow", b"secret", mode=0), symlink("lib", "usr"))
    app = images.layout(place / "app", [closed, tar(file("lib/sudo", b"s", mode=0o111))])
    (place / "target").mkdir()
    os.chown(place / "target", 65534, 65534)
    unprivileged("pull", app.source, cwd=place)
    unprivileged("mount", "--driver", "copy", "app:1.0", "target", cwd=place)
    unprivileged("unpack", "app:1.0", place / "tree", cwd=place)
    for tree in (place / "target", place / "tree"):
        assert (tree / "etc/gshadow").read_bytes() == b"secret"
        assert (tree / "etc/gshadow").stat().st_mode & 0o7777 == 0
        assert (tree / "usr/sudo").stat().st_mode & 0o7777 == 0o111
    unprivileged("push", "app:1.0", f"oci:{place}/again:1.0", cwd=place)
    diffs = unprivileged.store.glob("layers/sha256/*/diff")
    modes = [path.stat().st_mode & 0o7777 for diff in diffs for path in diff.glob("*/gshadow")]
    assert modes == [0]


def test_a_plan_is_printed_and_nothing_is_mounted(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    stacker("pull", app.source)
    document = conforming(stacker("mount", "app:1.0", target, "--rw", "--print-plan").document)
    plan = document["item"]["plan"]
    assert plan["target"] == str(target)
    assert plan["read_only"] is False
    # Topmost first; the link into a lower layer is a layer of its own.
    assert [Path(layer).parts[-4:-3] for layer in plan["layers"]].count(("layers",)) == 3
    assert os.listdir(target) == []
    assert stacker("mounts", "--json").items == []
    stacker.assert_clean(images=1, layers=3)


def test_unpack_writes_what_a_mount_shows(
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


def test_unpack_fills_an_empty_directory_and_prints_it_as_it_was_named(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    (tmp_path / "caf\udce9").mkdir()
    stacker("pull", app.source)
    assert stacker("unpack", "app:1.0", "caf\udce9", cwd=tmp_path).out == "caf\udce9\n"
    assert (tmp_path / "caf\udce9/top").stat().st_size == 70_000


def test_an_image_without_layers_is_an_empty_directory(stacker: Stacker, tmp_path: Path) -> None:
    empty = images.layout(tmp_path / "app", [])
    (tmp_path / "target").mkdir()
    stacker("pull", empty.source)
    stacker("unpack", "app:1.0", tmp_path / "tree")
    assert os.listdir(tmp_path / "tree") == []
    stacker("mount", "app:1.0", tmp_path / "target")
    assert os.listdir(tmp_path / "target") == []
    stacker("umount", tmp_path / "target")


@pytest.mark.parametrize("jobs", [1, 8])
def test_however_many_work_the_trees_are_the_same(tmp_path: Path, jobs: int) -> None:
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


def test_a_second_pull_reads_no_layer(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", app.source)
    for digest in app.image.layers:
        app.blob(digest).unlink()
    result = stacker("pull", app.source, "-v")
    assert result.last == app.image.config
    assert result.err.splitlines() == [f"already here {diff_id}" for diff_id in app.image.diff_ids]


def test_a_layer_that_another_image_brought_is_not_read_again(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    other = images.layout(tmp_path / "other", [BASE, TOP], name="other:1.0")
    stacker("pull", app.source)
    for digest in other.image.layers:
        other.blob(digest).unlink()
    assert stacker("pull", other.source).last == other.image.config


def test_two_pulls_at_once_unpack_each_layer_once(stacker: Stacker, tmp_path: Path) -> None:
    layers = [tar(*(file(f"{n}/{m}", bytes(500)) for m in range(1500))) for n in range(4)]
    app = images.layout(tmp_path / "app", layers)
    stacker("images")  # so that they do not race for making the store

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


def test_stores_are_made_by_whoever_comes_first(app: images.Layout, tmp_path: Path) -> None:
    stacker = Stacker(tmp_path / "store")
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: stacker("pull", app.source), range(4)):
            assert result.last == app.image.config
    stacker.assert_clean(images=1, layers=3)


def test_an_index_gives_the_image_of_the_platform_asked_for(
    stacker: Stacker, tmp_path: Path
) -> None:
    both = [(("linux", "amd64"), [BASE]), (("linux", "arm64"), [BASE, TOP])]
    layout = images.several(tmp_path / "app", both)
    for image, platform in zip(layout.images, ("linux/amd64", "linux/arm64/v8"), strict=True):
        assert stacker("pull", layout.source, "--platform", platform).last == image.config
    assert len(stacker("images", "--json").items) == 2


def test_an_image_is_found_by_id_prefix_name_and_source(
    stacker: Stacker, app: images.Layout
) -> None:
    stacker("pull", app.source)
    digits = app.image.config.partition(":")[2]
    for text in (app.image.config, digits, digits[:12], f"sha256:{digits[:7]}", "app:1.0"):
        assert stacker("inspect", text, "--json").item["image_id"] == app.image.config
    assert stacker("inspect", app.source, "--json").item["image_id"] == app.image.config


def test_blobs_are_kept_on_request_and_other_tools_can_read_them(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", app.source, "--keep-blobs", "--sync")
    assert Stacker(tmp_path / "second")("pull", f"oci:{stacker.store}:app:1.0").last == (
        app.image.config
    )
    if shutil.which("skopeo"):
        place = f"oci:{stacker.store}:app:1.0"
        done = subprocess.run(["skopeo", "inspect", place], check=True, capture_output=True)
        assert json.loads(done.stdout)["Layers"] == list(app.image.layers)
    stacker("rm", "app:1.0")
    stacker.assert_clean(layers=0)


def test_rm_takes_what_no_other_image_needs(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    other = images.layout(tmp_path / "other", [BASE], name="other:1.0")
    stacker("pull", app.source)
    stacker("pull", other.source)
    (item,) = conforming(stacker("rm", "app:1.0", "--json").document)["items"]
    assert item["layers"] == sorted(app.image.diff_ids[1:])
    stacker.assert_clean(images=1, layers=1)
    stacker("unpack", "other:1.0", tmp_path / "tree")
    assert stacker("rm", other.image.config).last == other.image.config
    stacker.assert_clean(layers=0)
    assert [path.name for path in (stacker.store / "chains").rglob("*")] == ["sha256"]


def test_rm_takes_several_or_none(stacker: Stacker, app: images.Layout, tmp_path: Path) -> None:
    other = images.layout(tmp_path / "other", [TOP], name="other:1.0")
    stacker("pull", app.source)
    stacker("pull", other.source)
    stacker.refused(3, "rm", "app:1.0", "nothing", "other:1.0")
    assert stacker("images", "-q").out.split() == [app.image.config, other.image.config]
    stacker("rm", "app:1.0", app.image.config, "other:1.0")
    stacker.assert_clean(layers=0)


def test_rm_refuses_what_is_mounted(stacker: Stacker, app: images.Layout, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    stacker("pull", app.source)
    stacker("mount", "app:1.0", target)
    text = stacker.refused(8, "rm", "app:1.0")
    assert str(target) in text
    assert (target / "top").exists()
    stacker("umount", target)
    stacker("rm", "app:1.0")
    stacker.assert_clean(layers=0)


def test_sizes_say_what_is_shared_and_what_is_not(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    other = images.layout(tmp_path / "other", [BASE, BASE], name="other:1.0")
    stacker("pull", app.source)
    stacker("pull", other.source)
    base = len(b"#!/bin/sh\n" + b"old" + b"kept")
    first, second = (item["bytes"] for item in stacker("images", "--json").items)
    assert first == {"shared": base, "own": 70_007, "total": 70_007 + base}
    assert second == {"shared": base, "own": 0, "total": base}
    sums = conforming(stacker("df", "--json").document)["item"]["bytes"]
    assert sums["layers"] == 70_007 + base
    assert sums["unlisted"] == 0
    assert sums["total"] == sum(sums[name] for name in ("layers", "skeletons", "blobs", "chains"))
    assert "68.4 KiB" in stacker("df").out


def test_every_query_fits_the_schema(stacker: Stacker, app: images.Layout, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    for line in stacker("--json", "pull", app.source).out.splitlines():
        conforming(json.loads(line))
    for words in (
        ("images",),
        ("inspect", "app:1.0"),
        ("layers", "app:1.0"),
        ("history", "app:1.0"),
        ("df",),
        ("bench", "--runs", "1", app.source),
        ("mount", "app:1.0", str(target)),
        ("mounts",),
        ("umount", str(target)),
        ("unpack", "app:1.0", str(tmp_path / "tree")),
        ("rm", "app:1.0"),
    ):
        assert conforming(stacker(*words, "--json").document)["schema"] == "stacker/v1"


def test_bench_measures_every_stage_and_leaves_nothing(
    stacker: Stacker, app: images.Layout
) -> None:
    item = conforming(stacker("bench", "--runs", "1", "--json", app.source).document)["item"]
    assert {layer["diff_id"] for layer in item["layers"]} == set(app.image.diff_ids)
    assert {layer["tar_bytes"] for layer in item["layers"]} == {
        len(layer) for layer in (BASE, MIDDLE, TOP)
    }
    read, *_, apply, _ = item["stages"]
    assert read["bytes"] == sum(layer["blob_bytes"] for layer in item["layers"])
    assert apply["bytes"] == sum(map(len, (BASE, MIDDLE, TOP)))
    assert all(stage["seconds"] > 0 for stage in item["stages"])
    out = stacker("bench", "--runs", "1", app.source).out
    assert [line.split("  ")[0] for line in out.splitlines()[1:8]] == [
        stage["stage"] for stage in item["stages"]
    ]
    assert "limit: " in out
    stacker.assert_clean()


def test_tables_have_twelve_digits_and_documents_all(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", app.source)
    digits = app.image.config.partition(":")[2]
    table = stacker("images").out
    assert digits[:12] in table
    assert digits[:13] not in table
    assert stacker("images", "--json").items[0]["image_id"] == app.image.config
    assert app.image.diff_ids[0][7:19] in stacker("layers", "app:1.0").out
    assert app.image.diff_ids[2][7:19] in stacker("history", "app:1.0").out.splitlines()[1]


def test_words_of_an_image_cannot_speak_to_the_terminal(stacker: Stacker, tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\u202e"

    def speak(config: dict[str, Any]) -> None:
        config["author"] = config["created"] = config["architecture"] = evil
        config["config"] = {"Cmd": [evil], "Env": [evil], "Labels": {evil: evil}, "User": evil}
        config["history"] = [{"created_by": evil, "created": evil, "comment": evil}]

    app = images.layout(tmp_path / "app", [BASE], name=evil, config=speak)
    stacker("pull", app.source)
    for words in (["images"], ["df"], ["inspect"], ["layers"], ["history"]):
        image = [] if words[0] in {"images", "df"} else [app.image.config]
        out = stacker(*words, *image).out
        assert all(line.isprintable() for line in out.splitlines()), words
    assert "owned" in stacker("images").out
    assert stacker("images", "--json").items[0]["names"] == [evil]


def test_on_a_terminal_there_are_bars_while_a_pull_works(
    stacker: Stacker, app: images.Layout
) -> None:
    if not shutil.which("script"):
        pytest.skip("script(1) is not installed")

    def drawn(*options: str, **environ: str) -> str:
        shutil.rmtree(stacker.store, ignore_errors=True)
        words = " ".join([*stacker.words(*options, "pull"), app.source])
        done = subprocess.run(
            ["script", "-qec", f"{words} >/dev/null", "/dev/null"],
            check=True,
            capture_output=True,
            env=stacker.environment | environ,
            stdin=subprocess.DEVNULL,
        )
        return done.stdout.decode()

    assert "3 layers" in drawn()
    assert "\x1b[" in drawn()
    for quiet in (drawn("--quiet"), drawn("--json"), drawn(TERM="dumb")):
        assert "\x1b" not in quiet
    assert "unpacked sha256:" in drawn("-v")
    coloured = re.compile(r"\x1b\[[0-9;]*3[0-9]")
    assert coloured.search(drawn())
    assert not coloured.search(drawn(NO_COLOR="1"))


def test_on_a_terminal_a_table_is_drawn_and_elsewhere_it_is_text(
    stacker: Stacker, app: images.Layout
) -> None:
    if not shutil.which("script"):
        pytest.skip("script(1) is not installed")
    stacker("pull", app.source)
    words = " ".join(stacker.words("images"))
    done = subprocess.run(
        ["script", "-qec", words, "/dev/null"],
        check=True,
        capture_output=True,
        env=stacker.environment,
        stdin=subprocess.DEVNULL,
    )
    assert b"\x1b[1m" in done.stdout
    assert b"app:1.0" in done.stdout
    assert "\x1b" not in stacker("images").out


@needs_root
def test_three_hundred_layers_mount(stacker: Stacker, tmp_path: Path) -> None:
    layers = [tar(file(f"f{n}", b"%d" % n)) for n in range(300)]
    app = images.layout(tmp_path / "app", layers, compression="none")
    (tmp_path / "target").mkdir()
    stacker("pull", app.source)
    stacker("mount", "app:1.0", tmp_path / "target")
    assert len(os.listdir(tmp_path / "target")) == 300
    stacker("umount", tmp_path / "target")


@needs_root
def test_the_same_layer_twice_mounts(stacker: Stacker, tmp_path: Path) -> None:
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
def test_a_real_docker_archive_becomes_a_root_filesystem(
    stacker: Stacker, tmp_path: Path, archive: str, name: str, entries: set[str]
) -> None:
    path = CORPORA / "images" / archive
    if not path.exists():
        pytest.skip(f"no images in {CORPORA}")
    stacker("pull", f"docker-archive:{path}")
    stacker("unpack", name, tmp_path / "tree")
    assert entries <= set(os.listdir(tmp_path / "tree"))


@pytest.mark.parametrize("kind", ["config", "manifest"])
def test_a_document_that_the_disk_damaged_is_written_anew_by_another_pull(
    stacker: Stacker, app: images.Layout, kind: str
) -> None:
    stacker("pull", app.source)
    digest = app.image.config if kind == "config" else app.image.manifest
    images.blob_path(stacker.store, digest).write_bytes(b"{}")
    message = stacker.refused(5, "images")
    assert "damaged blob" in message
    assert "pull the image again" in message
    assert stacker("pull", app.source).last == app.image.config
    assert [item["image_id"] for item in stacker("images", "--json").items] == [app.image.config]
