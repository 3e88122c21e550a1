"""Query, measure and remove images by the real command."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import images
from tests.support.command import Stacker, conforming
from tests.support.sample import BASE, MIDDLE, TOP


@pytest.fixture
def app(tmp_path: Path) -> images.Layout:
    return images.layout(tmp_path / "app", [BASE, MIDDLE, TOP])


def test_image_is_found_by_id_prefix_name_and_source(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", app.source)
    digits = app.image.config.partition(":")[2]
    for text in (app.image.config, digits, digits[:12], f"sha256:{digits[:7]}", "app:1.0"):
        assert stacker("inspect", text, "--json").item["image_id"] == app.image.config
    assert stacker("inspect", app.source, "--json").item["image_id"] == app.image.config


def test_kept_blobs_are_readable_by_skopeo(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", app.source, "--keep-blobs", "--sync")
    assert Stacker(tmp_path / "second")("pull", f"oci:{stacker.store}:app:1.0").last == (
        app.image.config
    )
    if shutil.which("skopeo"):
        directory = f"oci:{stacker.store}:app:1.0"
        done = subprocess.run(["skopeo", "inspect", directory], check=True, capture_output=True)
        assert json.loads(done.stdout)["Layers"] == list(app.image.layers)
    stacker("rm", "app:1.0")
    stacker.assert_clean(layers=0)


def test_rm_keeps_layers_of_other_images(
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


def test_rm_removes_all_images_or_none(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    other = images.layout(tmp_path / "other", [TOP], name="other:1.0")
    stacker("pull", app.source)
    stacker("pull", other.source)
    stacker.refused(3, "rm", "app:1.0", "nothing", "other:1.0")
    assert stacker("images", "-q").out.split() == [app.image.config, other.image.config]
    stacker("rm", "app:1.0", app.image.config, "other:1.0")
    stacker.assert_clean(layers=0)


def test_rm_of_a_mounted_image_is_refused(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
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


def test_sizes_distinguish_shared_and_unique_layers(
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
    assert 70_007 + base <= sums["layers"] <= sums["total"]
    assert sums["unlisted"] == 0
    assert sums["total"] == sum(sums.values()) - sums["total"] - sums["unlisted"]
    assert "68.4 KiB" in stacker("df").out


def test_every_json_document_matches_the_schema(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
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
        ("info",),
        ("convert", "app:1.0", "--form", "erofs"),
        ("layers", "app:1.0"),
        ("bench", "--runs", "1", app.source),
        ("mount", "app:1.0", str(target)),
        ("mounts",),
        ("umount", str(target)),
        ("unpack", "app:1.0", str(tmp_path / "tree")),
        ("rm", "app:1.0"),
    ):
        for line in _documents(stacker(*words, "--json").out):
            assert conforming(json.loads(line))["schema"] == "stacker/v1"


def _documents(out: str) -> list[str]:
    """Return the documents of a command: one for each line, or one with indents."""
    return out.splitlines() if out.startswith('{"') else [out]


def test_bench_measures_every_stage_and_leaves_no_files(
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


def test_tables_shorten_digests_and_json_does_not(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", app.source)
    digits = app.image.config.partition(":")[2]
    table = stacker("images").out
    assert digits[:12] in table
    assert digits[:13] not in table
    assert stacker("images", "--json").items[0]["image_id"] == app.image.config
    assert app.image.diff_ids[0][7:19] in stacker("layers", "app:1.0").out
    assert app.image.diff_ids[2][7:19] in stacker("history", "app:1.0").out.splitlines()[1]


def test_control_characters_of_an_image_are_escaped(stacker: Stacker, tmp_path: Path) -> None:
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


def test_pull_draws_progress_bars_on_a_terminal(stacker: Stacker, app: images.Layout) -> None:
    if not shutil.which("script"):
        pytest.skip("script(1) is not installed")

    def drawn(*options: str, **environ: str) -> str:
        shutil.rmtree(stacker.store, ignore_errors=True)
        words = " ".join([*stacker.words(*options, "pull"), "--no-sync", app.source])
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
    assert "unpacked layer sha256:" in drawn("-v")
    coloured = re.compile(r"\x1b\[[0-9;]*3[0-9]")
    assert coloured.search(drawn())
    assert not coloured.search(drawn(NO_COLOR="1"))


def test_tables_are_drawn_only_on_a_terminal(stacker: Stacker, app: images.Layout) -> None:
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


@pytest.mark.parametrize("kind", ["config", "manifest"])
def test_pull_rewrites_a_damaged_document(stacker: Stacker, app: images.Layout, kind: str) -> None:
    stacker("pull", app.source)
    digest = app.image.config if kind == "config" else app.image.manifest
    images.blob_path(stacker.store, digest).write_bytes(b"{}")
    assert "warning: image app:1.0: damaged blob" in stacker("images").err
    assert stacker("pull", app.source).last == app.image.config
    assert [item["image_id"] for item in stacker("images", "--json").items] == [app.image.config]


QUERIES = {
    "images": 0,
    "inspect app:1.0": 3,
    "layers app:1.0": 3,
    "history app:1.0": 3,
    "df": 0,
    "info": 0,
    "mounts": 0,
    "verify app:1.0": 3,
    "verify --all": 0,
    "gc --dry-run": 0,
    "index list": 0,
    "index inspect app:1.0": 3,
    "umount /nowhere": 3,
    "rm app:1.0": 3,
}
"""Commands and their exit codes for a store that does not exist."""


@pytest.mark.parametrize("command", QUERIES)
def test_query_reads_a_missing_store_as_empty_and_creates_nothing(
    stacker: Stacker, command: str
) -> None:
    result = stacker.run(*command.split())
    assert result.code == QUERIES[command], result.err
    assert not stacker.store.exists()
    assert "internal" not in result.err
    assert "cannot access" not in result.err


@pytest.mark.parametrize("command", QUERIES)
def test_query_writes_nothing_to_an_empty_directory(stacker: Stacker, command: str) -> None:
    stacker.store.mkdir()
    assert stacker.run(*command.split()).code == QUERIES[command]
    assert list(stacker.store.iterdir()) == []


def test_query_refuses_a_directory_with_other_files(stacker: Stacker) -> None:
    stacker.store.mkdir()
    (stacker.store / "letter.txt").touch()
    assert "not a store" in stacker.refused(2, "images")
