"""Random stacks equal their layers applied in turn (docs/rules.md, Stacking).

The kernel's overlay, the FUSE mount, the merged tree in memory, the flat copy and the sequential
applier of the tests must agree on path, type, mode, owner, time, size, xattrs, content and links.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from stacker.errors import LayerError
from stacker.fuse.options import FuseAdapter
from stacker.layer.paths import Stack
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.mount.drivers.fuse import FuseDriver
from stacker.stack.flatten import flatten
from stacker.tree.extract import extract
from stacker.tree.merged import merge
from tests.support import images
from tests.support.adapters import ADAPTERS, skip_without
from tests.support.containerd import Services
from tests.support.containerd import mounted as mounted_snapshot
from tests.support.indexes import indexed_tree, merged_snapshot, merged_stack
from tests.support.merged import tree_snapshot
from tests.support.sequential import ImpossibleError, Item, Sequential
from tests.support.snapshot import Node, snapshot
from tests.support.stacks import (
    D,
    F,
    L,
    O,
    S,
    W,
    archive,
    layer_paths,
    mounted,
    scratch,
    unpacked_stack,
)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts an overlay: needs root")

NAMES = st.sampled_from(["a", "b", "lib", "usr", "x"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
TARGETS = st.one_of(
    PATHS,
    PATHS.map("/{}".format),
    NAMES,
    NAMES.map("../{}".format),
    st.tuples(NAMES, NAMES).map(lambda pair: f"{pair[0]}/../{pair[1]}"),
)
IDS = st.sampled_from([0, 0, 0, 1000])
TIMES = st.integers(0, 3).map(lambda n: 1_000_000_000 + n)
XATTRS = st.sampled_from(
    [
        (),
        (),
        (),
        (("user.kind", b"\0binary\xff"),),
        (("trusted.overlay.opaque", b"y"),),
        (("user.overlay.opaque", b"y"),),
        (("trusted.overlay.overlay.whiteout", b""), ("user.z", b"1")),
    ]
)


def _item(kind: str) -> st.SearchStrategy[Item]:
    data = {
        "file": st.binary(max_size=3),
        "symlink": TARGETS.map(str.encode),
        "link": PATHS.map(str.encode),
    }.get(kind, st.just(b""))
    modes = st.sampled_from([0o755, 0o700, 0o1777] if kind == "directory" else [0o644, 0o4755])
    paths = st.one_of(PATHS, st.just("")) if kind in ("directory", "opaque") else PATHS
    return st.builds(
        Item,
        kind=st.just(kind),
        path=paths,
        data=data,
        mode=modes,
        uid=IDS,
        gid=IDS,
        mtime=TIMES.map(lambda seconds: seconds * 1_000_000_000),
        xattrs=XATTRS if kind in ("file", "directory") else st.just(()),
    )


KINDS = ["file"] * 4 + ["directory"] * 3 + ["symlink"] * 3 + ["link", "fifo", "opaque"]
KINDS += ["whiteout"] * 3
LAYER = st.lists(st.sampled_from(KINDS).flatmap(_item), max_size=7).map(tuple)


@st.composite
def stacks(draw: st.DrawFn) -> tuple[tuple[Item, ...], ...]:
    """Draw up to four layers; some occur again, also in a row."""
    layers = draw(st.lists(LAYER, min_size=1, max_size=4))
    again = draw(st.lists(st.integers(0, len(layers) - 1), max_size=3))
    return (*layers, *(layers[number] for number in again))


def check(layers: Sequence[Sequence[Item]], whiteout_format: WhiteoutFormat) -> None:
    """Compare all ways to read a stack."""
    wanted = meaning(layers)
    with scratch() as workspace:
        if wanted is None:
            with pytest.raises(LayerError):
                unpacked_stack([archive(layer) for layer in layers], workspace, whiteout_format)
            with pytest.raises(LayerError):
                merged_stack([archive(layer) for layer in layers], workspace, whiteout_format)
            return
        index = merged_stack([archive(layer) for layer in layers], workspace, whiteout_format)
        assert merged_snapshot(index) == wanted
        assert index.merged is not None
        with mounted(index, workspace) as target:
            assert snapshot(target) == wanted
        plain = workspace / "plain"
        plain.mkdir()
        extract(index.merged, plain, whiteout_format)
        assert snapshot(plain) == wanted
        with closing(indexed_tree(index)) as tree:
            assert tree_snapshot(tree) == wanted
        stack = unpacked_stack([archive(layer) for layer in layers], workspace, whiteout_format)
        flat = workspace / "flat"
        flat.mkdir()
        flatten(stack.directories, flat, whiteout_format)
        assert snapshot(flat) == wanted
        known = {source.diff: source for source in layer_paths(stack)}
        directories = list(stack.directories)
        if directories:
            assert tree_snapshot(merge(directories, whiteout_format)) == wanted
            layered = [known.get(directory, directory) for directory in directories]
            assert tree_snapshot(merge(layered, whiteout_format)) == wanted
        with mounted(stack, workspace) as target:
            assert snapshot(target) == wanted


def meaning(layers: Sequence[Sequence[Item]]) -> dict[bytes, Node] | None:
    """Return the tree that the layers describe; ``None`` if they are invalid."""
    reference = Sequential()
    try:
        for layer in layers:
            reference.apply(layer)
    except ImpossibleError:
        return None
    return reference.snapshot()


@needs_root
@pytest.mark.parametrize("whiteout_format", list(WhiteoutFormat))
@settings(
    max_examples=int(os.environ.get("STACKER_EXAMPLES", "150")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
@given(stacks())
@example(((D("usr"), D("usr/lib"), S("lib", "usr/lib")), (F("lib/x"),)))
@example(((D("a", mtime=5_000_000_000), F("a/b")), (F("a/x"),), (W("a/x"),)))
@example(((F("a", b"old"),), (L("b", "a"),)))
@example(((F("a", b"old"), F("x", b"new")), (L("b", "a"), L("a", "x"))))
@example(((D("a"), F("a/b")), (F("a/x"), W("a"))))
@example(((D("a"), F("a/b")), (O("a"), F("a/x"))))
@example(((D("a"), F("a/b")), (D("a"), W("a/b")), (D("a"), F("a/b"))))
@example(((S("lib", "usr/lib"), F("usr/lib/x")), (W("lib/x"),)))
@example(((S("lib", "usr"), F("usr/x")), (F("lib/b"), S("lib", "usr"))))
@example(((F("a"),), (O(""), F("b"))))
@example(((S("a", "a"),), (F("a/a"), W("a"), W("a/a"))))
@example(((F("a"), W("b"), O("b")),))
def test_mounted_stack_equals_applying_its_layers_in_turn(
    whiteout_format: WhiteoutFormat, layers: tuple[tuple[Item, ...], ...]
) -> None:
    check(layers, whiteout_format)


@needs_root
@pytest.mark.parametrize("stacked", [unpacked_stack, merged_stack])
@pytest.mark.parametrize("adapter", ADAPTERS)
@settings(
    max_examples=int(os.environ.get("STACKER_EXAMPLES", "150")) // 5,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
@given(stacks(), st.sampled_from(WhiteoutFormat))
@example(((F("a", b"old"),), (L("b", "a"),)), WhiteoutFormat.USER)
@example(((D("a"), F("a/b")), (O("a"), F("a/x"))), WhiteoutFormat.TRUSTED)
def test_fuse_mount_equals_applying_layers_in_turn(
    adapter: FuseAdapter,
    stacked: Callable[[Sequence[bytes], Path, WhiteoutFormat], Stack],
    layers: tuple[tuple[Item, ...], ...],
    whiteout_format: WhiteoutFormat,
) -> None:
    skip_without(adapter)
    wanted = meaning(layers)
    if wanted is None:
        return
    with scratch() as workspace:
        stack = stacked([archive(layer) for layer in layers], workspace, whiteout_format)
        with mounted(stack, workspace, FuseDriver(), fuse_adapter=adapter) as target:
            assert snapshot(target) == wanted


@needs_root
@settings(
    max_examples=int(os.environ.get("STACKER_EXAMPLES", "150")) // 5,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
@given(stacks())
@example(((D("usr"), D("usr/lib"), S("lib", "usr/lib")), (F("lib/x"),)))
@example(((D("a", mtime=5_000_000_000), F("a/b")), (F("a/x"),), (W("a/x"),)))
@example(((F("a", b"old"),), (L("b", "a"),)))
@example(((D("a"), F("a/b")), (D("a"), W("a/b")), (D("a"), F("a/b"))))
@example(((D("a"), F("a/b")), (O("a"), F("a/x"))))
def test_snapshot_of_containerd_equals_applying_layers_in_turn(
    layers: tuple[tuple[Item, ...], ...],
) -> None:
    wanted = meaning(layers)
    if wanted is None:
        return
    with scratch() as workspace:
        services = Services(workspace)
        layout = images.layout(workspace / "layout", [archive(layer) for layer in layers])
        top = services.pull(layout)
        with mounted_snapshot(services.prepare("container", top), workspace / "target") as target:
            found = snapshot(target)
        services.close()
        assert found == wanted
