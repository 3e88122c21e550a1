"""The tar and the EROFS image of a random stack are its tree (docs/rules.md, Exporting).

GNU tar, the kernel, the trees of both forms and the sequential applier of the tests must agree.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, Phase, example, given, reject, settings

from stacker.errors import LayerError
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.tree.archive import TreeArchive
from stacker.tree.erofs_image import ErofsImage
from stacker.tree.merged import merge
from stacker.tree.protocol import LowerTree
from tests.property.test_stacks import meaning, stacks
from tests.support.fsck import assert_sound, needs_fsck
from tests.support.indexes import index_snapshot, indexed_tree, merged_stack
from tests.support.sequential import Item
from tests.support.snapshot import snapshot
from tests.support.stacks import D, F, L, O, S, W, archive, layer_paths, scratch, unpacked_stack

TAR = ("tar", "-xpf", "-", "--numeric-owner", "--same-owner", "--xattrs", "--xattrs-include=*")


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="writes owners and mounts: needs root")
each_format = pytest.mark.parametrize("whiteout_format", list(WhiteoutFormat))
few = settings(
    max_examples=int(os.environ.get("STACKER_EXAMPLES", "150")) // 3,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)


@contextmanager
def trees(
    layers: Sequence[Sequence[Item]], workspace: Path, whiteout_format: WhiteoutFormat
) -> Iterator[tuple[LowerTree, LowerTree]]:
    """Yield the tree of a stack from its index, and from its directories."""
    tars = [archive(layer) for layer in layers]
    try:
        stack = unpacked_stack(tars, workspace, whiteout_format)
    except LayerError:  # test_stacks compares which stacks are refused; here they have no tree
        reject()
    known = {paths.diff: paths for paths in layer_paths(stack)}
    merged = merge([known.get(path, path) for path in stack.directories], whiteout_format)
    with (
        TemporaryDirectory(dir=workspace) as index,
        closing(indexed_tree(merged_stack(tars, Path(index), whiteout_format))) as tree,
    ):
        yield tree, merged


def erofs_image(tree: LowerTree, path: Path) -> bytes:
    with path.open("wb") as file:
        ErofsImage(tree, "test").write(file, lambda _: None)
    return path.read_bytes()


@needs_root
@each_format
@few
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
    with scratch() as workspace, trees(layers, workspace, whiteout_format) as (indexed, merged):
        found = b"".join(TreeArchive(indexed, "test").chunks())
        assert b"".join(TreeArchive(merged, "test").chunks()) == found
        (target := workspace / "extracted").mkdir()
        subprocess.run([*TAR, "-C", target], input=found, check=True)
        assert snapshot(target) == wanted


@needs_root
@needs_fsck
@pytest.mark.usefixtures("alone_among_mounts")
@each_format
@few
@given(stacks())
@example(((F("a", b"old"),), (L("b", "a"),)))
@example(((D("a"), F("a/b")), (O("a"), F("a/x"))))
@example(((F("a", b"1" * 513), F("b", b"2" * 512), F("c")),))
def test_kernel_mounts_the_erofs_image_of_a_stack(
    whiteout_format: WhiteoutFormat, layers: tuple[tuple[Item, ...], ...]
) -> None:
    wanted = meaning(layers)
    if wanted is None:
        return
    with scratch() as workspace, trees(layers, workspace, whiteout_format) as (indexed, merged):
        path = workspace / "image.erofs"
        found = erofs_image(indexed, path)
        assert erofs_image(merged, workspace / "again.erofs") == found
        assert index_snapshot(found) == wanted
        assert_sound(path)
        (target := workspace / "mounted").mkdir()
        subprocess.run(["mount", "-t", "erofs", "-o", "loop,ro", path, target], check=True)
        try:
            assert snapshot(target) == wanted
        finally:
            subprocess.run(["umount", target], check=True)
