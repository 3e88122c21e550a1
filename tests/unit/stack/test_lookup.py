"""Looking up names in a stack that grows (kernel, filesystems/overlayfs.rst)."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stacker.layer.whiteout_format import WhiteoutFormat, is_whiteout
from stacker.stack import lookup
from stacker.stack.build import build_stack
from stacker.stack.lookup import LayerLookup
from tests.support.stacks import F, archive, scratch, unpacked, unpacked_stack

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes whiteouts: needs root")
FORMAT = WhiteoutFormat.TRUSTED
PATHS = (b"a", b"b", b"a/a", b"a/b", b"a/a/a", b"b/a", b"none", b"none/a")
KINDS = st.sampled_from(["directory", "opaque", "file", "whiteout"])
LAYERS = st.lists(st.dictionaries(st.sampled_from(PATHS[:6]), KINDS), min_size=1, max_size=5)


def write_layer(root: Path, entries: dict[bytes, str]) -> None:
    """Write entries whose parents are directories."""
    root.mkdir()
    for path, kind in sorted(entries.items()):
        target = os.fsencode(root) + b"/" + path
        if not os.path.isdir(os.path.dirname(target)):
            continue
        if kind == "whiteout":
            os.mknod(target, stat.S_IFCHR, 0)
        elif kind == "file":
            os.close(os.open(target, os.O_CREAT))
        else:
            os.mkdir(target)
            if kind == "opaque":
                os.setxattr(target, b"trusted.overlay.opaque", b"y")


def sources_of(layers: Sequence[Path], path: bytes) -> tuple[bytes, ...]:
    """Return what `LayerLookup.sources` has to return, found layer by layer."""
    found = [os.fsencode(layer) for layer in layers]
    for name in path.split(b"/") if path else ():
        above, found = found, []
        for source in above:
            inner = source + b"/" + name
            if not os.path.lexists(inner):
                continue
            if not os.path.isdir(inner):
                break
            found.append(inner)
            if FORMAT.is_opaque(inner):
                break
    return tuple(found)


def entry_of(layers: Sequence[Path], path: bytes) -> bytes | None:
    """Return the path that `LayerLookup.entry` has to find."""
    above, _, name = path.rpartition(b"/")
    for source in sources_of(layers, above):
        if os.path.lexists(source + b"/" + name):
            status = os.lstat(source + b"/" + name)
            return None if is_whiteout(status) else source + b"/" + name
    return None


@pytest.fixture(params=[0, 64], ids=["indexed", "searched"])
def many(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "_MANY", request.param)


@pytest.fixture
def workspace() -> Iterator[Path]:
    with scratch() as directory:
        yield directory


@pytest.mark.usefixtures("many")
@given(contents=LAYERS, order=st.lists(st.integers(0, 4), max_size=8))
def test_stack_that_grows_equals_a_new_stack(
    contents: list[dict[bytes, str]], order: list[int]
) -> None:
    with scratch() as directory:
        made = []
        for number, entries in enumerate(contents):
            made.append(directory / f"{number}")
            write_layer(made[-1], entries)
        tree, layers = LayerLookup(made[::-1], FORMAT), made[::-1]
        for number in [-1, *order]:
            if number >= 0:  # layers can repeat
                layer = made[number % len(made)]
                tree.push(layer)
                layers = [layer, *layers]
            for path in (b"", *PATHS):
                assert tree.sources(path) == sources_of(layers, path)
                if path:
                    found = tree.entry(path)
                    assert (found and found.path) == entry_of(layers, path)


@pytest.mark.usefixtures("many")
def test_candidates_continue_below_an_opaque_directory(workspace: Path) -> None:
    kinds = ("directory", "file", "directory", "opaque", "directory")
    for number, kind in enumerate(kinds):
        write_layer(workspace / f"{number}", {b"d": kind})
    layers = [workspace / f"{number}" for number in reversed(range(len(kinds)))]
    tree = LayerLookup(layers, FORMAT)
    paths = [os.fsencode(layer) + b"/d" for layer in layers]
    assert list(tree.candidates(b"", b"d")) == paths[:3]
    assert tree.sources(b"d") == tuple(paths[:2])


def test_names_over_the_limit_are_not_held(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "_MANY", 0)
    monkeypatch.setattr(lookup, "_MOST_NAMES", 1)
    write_layer(workspace / "0", {b"a": "file", b"b": "directory"})
    tree = LayerLookup([workspace / "0"], FORMAT)
    assert tree.sources(b"b") == (os.fsencode(workspace) + b"/0/b",)
    shutil.rmtree(workspace / "0" / "b")
    assert tree.entry(b"b") is None
    assert tree.entry(b"a") is not None


def test_many_layers_are_stacked_in_linear_time(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, lstat = [0], os.lstat

    def counting(*arguments: object, **options: object) -> os.stat_result:
        calls[0] += 1
        return lstat(*arguments, **options)  # type: ignore[arg-type]

    counts = []
    for number in (200, 400):
        directory = workspace / f"{number}"
        directory.mkdir()
        layers = [archive((F(f"d{each}/file"),)) for each in range(number)]
        with monkeypatch.context() as patch:
            patch.setattr(os, "lstat", counting)
            calls[0] = 0
            unpacked_stack(layers, directory, FORMAT)
            counts.append(calls[0])
    assert counts[1] < 3 * counts[0], counts  # linear: 2, quadratic: 4


def test_layer_that_is_repeated_is_stacked_in_linear_time(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = unpacked(0, archive((F("d/file"),)), workspace, FORMAT)
    calls, lstat = [0], os.lstat

    def counting(*arguments: object, **options: object) -> os.stat_result:
        calls[0] += 1
        return lstat(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "lstat", counting)
    repairs = workspace / "chain"
    repairs.mkdir()
    stack = build_stack([layer] * 3000, repairs=repairs, whiteout_format=FORMAT)
    assert stack.directories == (layer.diff,)
    assert calls[0] < 5 * 3000
