"""Lists of images: filters, templates, and the list for other programs."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support import images
from tests.support.command import Stacker
from tests.support.tars import file, tar

BASE, TOP = tar(file("base", b"1")), tar(file("top", b"2"))


def test_images_are_filtered(stacker: Stacker, app: images.Layout, other: images.Layout) -> None:
    stacker("pull", app.source)
    stacker("pull", other.source)
    stacker("untag", "other:1.0")
    one, two = app.image.config, other.image.config
    for words, found in (
        (["name=app:*"], [one]),
        (["dangling=true"], [two]),
        (["dangling=false"], [one]),
        (["platform=linux/amd64"], [one, two]),
        (["platform=linux/amd64", "dangling=true"], [two]),
        (["platform=linux/s390x"], []),
        (["label=none"], []),
    ):
        options = [word for text in words for word in ("--filter", text)]
        assert stacker("images", "-q", *options).out.split() == found
    for text in ("name", "name=", "dangling=maybe", "colour=red"):
        assert "malformed filter" in stacker.refused(2, "images", "--filter", text)


def test_images_are_filtered_by_label(stacker: Stacker, tmp_path: Path) -> None:
    def labelled(config: dict[str, object]) -> None:
        config["config"] = {"Labels": {"tier": "web"}}

    image = images.layout(tmp_path / "l", [BASE], config=labelled)
    stacker("pull", image.source)
    assert stacker("images", "-q", "--filter", "label=tier").last == image.image.config
    assert stacker("images", "-q", "--filter", "label=tier=web").last == image.image.config
    assert stacker("images", "-q", "--filter", "label=tier=db").out == ""


def test_lists_are_printed_by_a_template(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", app.source)
    done = stacker("images", "--format", r"{names[0]}\t{bytes[total]}")
    assert done.out == "app:1.0\t1\n"
    assert stacker("layers", "app:1.0", "--format", "{diff_id}").last == app.image.diff_ids[0]
    assert stacker("history", "app:1.0", "--format", "{diff_id}").last == app.image.diff_ids[0]
    assert stacker("mounts", "--format", "{target}").out == ""
    stacker("index", "create", "both", "app:1.0")
    assert stacker("index", "list", "--format", "{name}").out == "both\n"
    text = stacker.refused(2, "images", "--format", "{size}")
    assert "unknown field 'size'" in text
    assert "image_id" in text
    assert "malformed template" in stacker.refused(2, "images", "--format", "{")


def test_list_of_images_is_what_other_programs_read(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", "--keep-blobs", app.source)
    stacker("tag", "app:1.0", "two")
    entries = json.loads((stacker.store / "index.json").read_bytes())["manifests"]
    assert {entry["digest"] for entry in entries} == {app.image.manifest}
