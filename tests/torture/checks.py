"""Check the promises that hold in a store after any fault.

In come a world, its scenario and the expected trees.  An `AssertionError` comes out if a command
fails that must succeed, if a wrong tree is accepted, or if a file is left over.  Nothing here
injects a fault.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.support.images import blob_path
from tests.support.mounts import unmount_below
from tests.support.snapshot import Node, snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from tests.torture.scenarios import Scenario
    from tests.torture.world import World

WRITTEN = b"written\n"
"""The content of the file that the scenario `commit` has in its upper directory."""
Trees = dict[str, dict[bytes, Node]]
"""The expected tree of each image, by the image's name."""
ExposedTree = dict[bytes, tuple[str, int, bytes]]
"""Kind, mode and contents of each file below the root."""


def exposed(nodes: dict[bytes, Node]) -> ExposedTree:
    """Return the part of a tree that every driver must expose."""
    return {path: (n.kind, n.mode, n.content) for path, n in nodes.items() if path}


def check_world(world: World, scenario: Scenario, expected: Trees, fault: object) -> None:
    """Check a world after a fault in its command.

    :param fault: names the fault in messages.
    :raises AssertionError: a promise is broken.
    """
    for verb in ("images", "df", "mounts"):
        listed = world.stacker.run(verb, "--json")
        assert listed.code == 0, (fault, verb, listed.err)
    _check_index(world, fault)
    assert world.unpacked("other") == expected["other"], (fault, "other")
    scenario.repeat(world)
    _check_index(world, fault)
    _check_directory(world.out, fault)
    if scenario.mounts:
        assert exposed(snapshot(world.mounted)) == exposed(expected["app"]), (fault, "the mount")
    for arguments in scenario.then(world):
        done = world.stacker.run(*arguments)
        assert done.code == 0, (fault, arguments, done.err)
    _check_images(world, scenario, expected, fault)
    if scenario.unpacks:
        assert snapshot(world.tree) == expected["app"], (fault, "the tree that the command wrote")
    if scenario.exports is not None:
        assert scenario.exports(world) == expected["app"], (fault, "the file that it wrote")
    if scenario.writes is not None:
        written = world.pulled_elsewhere(scenario.writes(world))
        assert written == expected["app"], (fault, "what the command wrote")
    _remove_everything(world, fault)


def _check_index(world: World, fault: object) -> None:
    """Check that other programs find every blob of the images in the index of the layout."""
    path = world.stacker.store / "index.json"
    entries = json.loads(path.read_bytes())["manifests"] if path.exists() else []
    for entry in entries:
        manifest = json.loads(blob_path(world.stacker.store, entry["digest"]).read_bytes())
        for blob in (manifest["config"], *manifest["layers"]):
            found = blob_path(world.stacker.store, blob["digest"])
            assert found.exists(), (fault, "missing in the layout", blob)


def _check_directory(directory: Path, fault: object) -> None:
    """Check that the repeated command has removed the temporary files of the killed one."""
    left = sorted(path.name for path in directory.rglob(".*"))
    assert not left, (fault, "temporary files left", left)


def _check_images(world: World, scenario: Scenario, expected: Trees, fault: object) -> None:
    """Check that every image of the list has its exact tree, whatever its name."""
    names = {getattr(world, name).image.config: name for name in expected}
    for image in world.stacker("images", "--json").items:
        name, tree = names.get(image["image_id"]), world.unpacked(image["image_id"])
        if name is None and scenario.commits:
            assert tree.pop(b"written").content == WRITTEN, (fault, "the written file")
            name = "app"
        assert name is not None, (fault, image)
        assert tree == expected[name], (fault, name)


def _remove_everything(world: World, fault: object) -> None:
    """Unmount and remove everything through stacker; check that no file is left."""
    stacker = world.stacker
    for mount in stacker("mounts", "--json").items:
        done = stacker.run("umount", mount["target"])
        assert done.code == 0, (fault, mount, done.err)
    unmount_below(world.path)
    for image in stacker("images", "--json").items:
        done = stacker.run("rm", "--force", image["image_id"])
        assert done.code == 0, (fault, done.err)
    stacker("gc")  # a killed `rm` leaves layers that no image lists
    layers = [path.name for path in stacker.layers()]
    assert not layers, (fault, "layers left", layers)
    drafts = [path.name for path in stacker.store.iterdir() if path.name.startswith(".")]
    assert not drafts, (fault, "drafts left", drafts)
    assert_no_empty_documents(world)


def assert_no_empty_documents(world: World) -> None:
    """Check that each JSON document at the top of the store parses."""
    for path in world.stacker.store.glob("*.json"):
        json.loads(path.read_bytes())
