"""Every kind of document of the store, empty or garbage, beside every verb.

No document hides or blocks another object: every command on another image succeeds.  A command on
the damaged object ends with a documented code.  One of them says what is damaged, unless stacker
writes the document again by itself.  After a pull, a repair and `gc`, everything is whole.  Without
``STACKER_TORTURE=all``, each document gets one kind of garbage only.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stacker.linux.removal import remove_tree
from tests.support import images
from tests.support.command import at_home
from tests.support.mounts import unmount_below
from tests.support.snapshot import Node, snapshot
from tests.torture.forkserver import ForkedStacker, shared_server
from tests.torture.sweep import is_whole
from tests.torture.world import BASE, CHANGES, OTHER, forked

CONTENTS = (b"", b"\xff\0{]", b"[]")
DOCUMENTED = {0, 2, 3, 5, 6}
"""The exit codes of a command that uses the damaged object: success, usage, missing, damaged, and
malformed layer."""

pytestmark = [
    pytest.mark.usefixtures("alone_among_mounts"),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts: needs root"),
]


@dataclass(frozen=True)
class World:
    """A store with two images in the form of trees, which share a layer, and one in EROFS form."""

    path: Path
    stacker: ForkedStacker
    layouts: dict[str, images.Layout]
    trees: dict[str, dict[bytes, Node]]

    @property
    def store(self) -> Path:
        """The store."""
        return self.stacker.store

    @property
    def out(self) -> Path:
        """A directory for what commands write."""
        return self.path / "out"

    def layer(self, name: str) -> Path:
        """Return the directory of the topmost layer of an image."""
        return self.store / "layers/sha256" / self.layouts[name].image.diff_ids[-1][7:]

    def blob(self, name: str, document: str) -> Path:
        """Return the path of the manifest or the config of an image."""
        digest: str = getattr(self.layouts[name].image, document)
        return self.store / "blobs/sha256" / digest[7:]

    def chain(self, name: str) -> Path:
        """Return the directory of the chain of an image, which only this image has."""
        mark = {"app": "rebased-1", "packed": "merged.erofs"}[name]
        return next(self.store.glob(f"chains/*/*/{mark}")).parent

    def index(self) -> Path:
        """Return the record of the index that gets damaged."""
        (path,) = (p for p in self.store.glob("indexes/*") if b'"damaged"' in p.read_bytes())
        return path


Find = Callable[[World], Path]
DOCUMENTS: dict[str, Find] = {
    "stacker.json": lambda w: w.store / "stacker.json",
    "images.json": lambda w: w.store / "images.json",
    "index.json": lambda w: w.store / "index.json",
    "oci-layout": lambda w: w.store / "oci-layout",
    "manifest": lambda w: w.blob("app", "manifest"),
    "config": lambda w: w.blob("app", "config"),
    "layer.json": lambda w: w.layer("app") / "layer.json",
    "skeleton": lambda w: w.layer("app") / "skeleton.tar.zst",
    "checksums": lambda w: w.layer("app") / "checksums",
    "chain.json": lambda w: w.chain("app") / "chain.json",
    "layer.json in EROFS form": lambda w: w.layer("packed") / "layer.json",
    "index.erofs": lambda w: w.layer("packed") / "index.erofs",
    "layer.tar": lambda w: w.layer("packed") / "layer.tar",
    "index.sha256": lambda w: w.layer("packed") / "index.sha256",
    "merged.erofs": lambda w: w.chain("packed") / "merged.erofs",
    "chain.json in EROFS form": lambda w: w.chain("packed") / "chain.json",
    "record of an index": World.index,
    "mount.json": lambda w: next(w.store.glob("mounts/*/mount.json")),
}
PACKED = {
    "index.erofs",
    "layer.tar",
    "index.sha256",
    "merged.erofs",
    *(d for d in DOCUMENTS if " in " in d),
}
"""The documents of the image in EROFS form."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    path = tmp_path_factory.mktemp("documents")
    layers = {"app": [BASE, CHANGES], "other": [BASE, OTHER], "packed": [OTHER, CHANGES]}
    layouts = {name: images.layout(path / name, each, name=name) for name, each in layers.items()}
    stacker, trees = forked(at_home(path), shared_server()), {}
    for name, layout in layouts.items():
        form = "erofs" if name == "packed" else "tree"
        stacker("pull", "--sync", "--form", form, layout.source)
        stacker("unpack", name, path / f"tree-{name}")
        trees[name] = snapshot(path / f"tree-{name}")
    for name in ("damaged", "sound"):
        stacker("index", "create", name, "other")
    stacker("index", "annotate", "sound", "--annotation", "a=b")
    stacker("verify", "--all")
    subprocess.run(["cp", "-a", stacker.store, path / "saved"], check=True)
    yield World(path, stacker, layouts, trees)
    unmount_below(path)


def restore(world: World) -> None:
    """Give the world its store again, with a mount of the sound image."""
    unmount_below(world.path)
    remove_tree(world.store)
    remove_tree(world.out, missing_ok=True)
    subprocess.run(["cp", "-a", world.path / "saved", world.store], check=True)
    for name in ("target", "second"):
        (world.out / name).mkdir(parents=True)
    world.stacker("mount", world.layouts["other"].image.config, world.out / "target")


def commands(world: World, name: str) -> list[tuple[str | Path, ...]]:
    """Return a command of each verb on an image; what one creates, a later one removes."""
    image, out = world.layouts[name].image.config, world.out
    return [
        ("images",),
        ("df",),
        ("mounts",),
        ("index", "list"),
        ("gc", "--dry-run"),
        ("inspect", image),
        ("layers", image),
        ("history", image),
        ("verify", image),
        ("verify", "--fast", image),
        ("unpack", "--pull", "never", image, out / f"tree-{name}"),
        ("export", image, "-o", out / f"{name}.tar"),
        ("mount", "--rw", "--pull", "never", image, out / "second"),
        ("commit", out / "second", "committed"),
        ("umount", out / "second"),
        ("bundle", "--pull", "never", image, out / "bundle", "/bin/sh"),
        ("bundle", "rm", out / "bundle"),
        ("tag", image, "extra"),
        ("untag", "extra"),
        ("push", image, f"oci:{out}/layout:{name}"),
        ("copy", world.layouts[name].source, f"oci:{out}/copied:{name}"),
        ("index", "create", "new", image),
        ("index", "inspect", "new"),
        ("index", "annotate", "new", "--annotation", "a=b"),
        ("index", "push", "new", f"oci:{out}/layout:new"),
        ("index", "rm", "new"),
        ("convert", image, "--form", "tree"),
        ("convert", image, "--form", "erofs"),
        ("repair", image),
        ("rm", "--force", "committed"),
    ]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_damaged_document_blocks_no_other_object_and_is_mended(
    world: World, document: str
) -> None:
    damaged = "packed" if document in PACKED else "app"
    one = [*DOCUMENTS].index(document) % len(CONTENTS)
    for content in CONTENTS if is_whole() else CONTENTS[one : one + 1]:
        restore(world)
        DOCUMENTS[document](world).write_bytes(content)
        said = [run(world, words, {0}) for words in commands(world, "other")]
        said += [run(world, words, DOCUMENTED) for words in commands(world, damaged)]
        assert any("damaged" in text or "malformed" in text for text in said), content
        is_mended(world)


def run(world: World, words: tuple[str | Path, ...], codes: set[int]) -> str:
    """Run a command, check its exit code, and return what it printed."""
    done = world.stacker.run_with({}, *words)
    assert done.code in codes, (words, done.code, done.out, done.err)
    assert "Traceback" not in done.err, (words, done.err)
    assert "internal error" not in done.err, (words, done.err)
    return done.out + done.err


def is_mended(world: World) -> None:
    """Pull, repair and collect garbage; then everything is whole and nothing is reported."""
    unmount_below(world.path)  # also the mount whose record is damaged
    for layout in world.layouts.values():
        run(world, ("pull", layout.source), {0})
    for words in (("repair", "--all"), ("gc",)):
        run(world, words, {0})
    for words in (("images",), ("df",), ("mounts",), ("index", "list"), ("verify", "--all")):
        done = world.stacker.run_with({}, *words)
        assert (done.code, done.err) == (0, ""), (words, done.out)
    assert {name for each in world.stacker("images", "--json").items for name in each["names"]} == {
        *world.layouts
    }
    for name, tree in world.trees.items():
        world.stacker("unpack", "--pull", "never", name, world.out / f"mended-{name}")
        assert snapshot(world.out / f"mended-{name}") == tree
    assert world.stacker("gc", "--dry-run", "--json").items == []
