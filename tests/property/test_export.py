"""The tar of a random stack is its tree (docs/rules.md, Exporting).

GNU tar, the FUSE server's trees of both forms and the sequential applier of the tests must agree.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import closing

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings

from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.tree.archive import TreeArchive
from stacker.tree.merged import merge
from tests.property.test_stacks import meaning, stacks
from tests.support.indexes import indexed_tree, merged_stack
from tests.support.sequential import Item
from tests.support.snapshot import snapshot
from tests.support.stacks import D, F, L, O, S, W, archive, layer_paths, scratch, unpacked_stack

TAR = ("tar", "-xpf", "-", "--numeric-owner", "--same-owner", "--xattrs", "--xattrs-include=*")


@pytest.mark.skipif(os.geteuid() != 0, reason="writes trusted xattrs and owners: needs root")
@pytest.mark.parametrize("whiteout_format", list(WhiteoutFormat))
@settings(
    max_examples=int(os.environ.get("STACKER_EXAMPLES", "150")) // 3,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
@given(stacks())
@example(((F("a", b"old"),), (L("b", "a"),)))
@example(((D("a"), F("a/b")), (O("a"), F("a/x"))))
@example(((S("lib", "usr/lib"), F("usr/lib/x")), (W("lib/x"),)))
@example(((F("a/b"), F("a.b"), D("a")), (L("a/c", "a.b"),)))
def test_extracted_tar_of_a_stack_equals_applying_its_layers_in_turn(
    whiteout_format: WhiteoutFormat, layers: tuple[tuple[Item, ...], ...]
) -> None:
    wanted = meaning(layers)
    if wanted is None:
        return
    tars = [archive(layer) for layer in layers]
    with scratch() as workspace:
        with closing(indexed_tree(merged_stack(tars, workspace, whiteout_format))) as tree:
            from_index = b"".join(TreeArchive(tree, "test").chunks())
        stack = unpacked_stack(tars, workspace, whiteout_format)
        known = {paths.diff: paths for paths in layer_paths(stack)}
        merged = merge([known.get(path, path) for path in stack.directories], whiteout_format)
        assert b"".join(TreeArchive(merged, "test").chunks()) == from_index
        target = workspace / "extracted"
        target.mkdir()
        subprocess.run([*TAR, "-C", target], input=from_index, check=True)
        assert snapshot(target) == wanted
