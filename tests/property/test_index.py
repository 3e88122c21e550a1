"""Any layer gives a sound index, or `LayerError`: what is read back equals the tree on disk.

Entries are drawn as bytes of headers, well-formed or hostile: names with NUL, ``..`` and slashes,
duplicates, loops of links, sizes and offsets beyond the tar, and sparse maps that do not fit.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stacker.errors import LayerError
from stacker.tar.limits import Limits
from tests.support import tars
from tests.support.erofs_layers import on_disk
from tests.support.fsck import assert_sound, fsck_command
from tests.support.indexes import index_snapshot
from tests.support.stacks import MEMORY
from tests.support.unpacking import IS_ROOT, Workspace

EXAMPLES = int(os.environ.get("STACKER_EXAMPLES", "150"))
LIMITS = Limits(unpacked_bytes=1 << 24, entries=1000)

PARTS = st.sampled_from(
    [b"a", b"b", b"usr", b"n" * 255, b"n" * 256, b"..", b".", b"", b"\xff", b"a b"]
)
ODD_PARTS = st.one_of(PARTS, PARTS, st.binary(min_size=1, max_size=6))
PATHS = st.lists(ODD_PARTS, min_size=1, max_size=3).map(b"/".join)
MODES = st.sampled_from([0o644, 0o755, 0o6755, 0o1777, 0o100644, 0])
IDS = st.sampled_from([0, 0, 65535, 65536, 0xFFFF_FFFE])
TIMES = st.sampled_from(["1", "1", "1.5", "-1.25", "17179869184", "99999999999999999999"])
NUMBERS = st.sampled_from([0, 1, 511, 512, 513, 4096, 1 << 20, 1 << 33, (1 << 64) - 1])
XATTRS = st.dictionaries(
    st.sampled_from(
        ["user.a", "user.b", "trusted.c", "security.selinux", "trusted.overlay.opaque", "bad"]
    ),
    st.sampled_from([b"", b"1", b"v" * 300, b"\0\xff"]),
    max_size=3,
)
SPARSE = st.sampled_from([tars.sparse_old, tars.sparse_00, tars.sparse_01, tars.sparse_10])
SEGMENTS = st.lists(st.tuples(NUMBERS, st.sampled_from([b"", b"x", b"y" * 512])), max_size=4)


@st.composite
def entries(draw: st.DrawFn) -> bytes:
    """Draw an entry with its extended header."""
    path, kind = draw(PATHS), draw(st.sampled_from(KINDS))
    options: tars.Options = {"mode": draw(MODES), "uid": draw(IDS), "gid": draw(IDS)}
    if kind == "sparse":
        return draw(SPARSE)(path, draw(NUMBERS), draw(SEGMENTS))
    if kind == "lie":
        return tars.file(path, b"short", size=draw(NUMBERS))
    head = tars.pax(mtime=draw(TIMES), path=path) if draw(st.booleans()) else b""
    if kind == "file":
        data = b"d" * draw(st.sampled_from([0, 1, 512, 700]))
        options["xattrs"] = {} if head else draw(XATTRS)
        return head + tars.file(path, data, **options)
    if kind == "directory":
        options["xattrs"] = {} if head else draw(XATTRS)
        return head + tars.dir(path, **options)
    if kind == "symlink":
        return tars.symlink(path, draw(st.one_of(PATHS, st.just(b"t" * 4000))), **options)
    if kind == "link":
        return tars.hardlink(path, draw(PATHS))
    if kind == "device" and IS_ROOT:
        return tars.char(path, draw(st.sampled_from([0, 1, 4095, 4096])), draw(st.integers(0, 300)))
    if kind == "whiteout":
        return tars.whiteout(path)
    return tars.fifo(path) if kind == "fifo" else tars.opaque(path)


KINDS = ["file"] * 5 + ["directory"] * 3 + ["symlink", "link", "sparse", "whiteout"] * 2
KINDS += ["lie", "device", "fifo", "opaque"]
LAYERS = st.lists(st.lists(entries(), max_size=8), min_size=1, max_size=10)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(LAYERS)
@example([[tars.file(b"a\0b"), tars.file(b"a/../../b"), tars.file(b"a")]])
@example([[tars.symlink("a", "b"), tars.symlink("b", "a"), tars.file("a/x")]])
@example([[tars.hardlink("a", "b"), tars.hardlink("b", "a")]])
@example([[tars.sparse_10("s", (1 << 64) - 1, [(0, b"x")])]])
@example([[tars.sparse_10("s", 1 << 23, [(n * 9000 + 1, b"x") for n in range(900)])]])
def test_index_is_sound_or_the_layer_is_refused(layers: list[list[bytes]]) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="stacker-test-") as directory:
        for number, parts in enumerate(layers):
            place = Path(directory, f"{number}")
            place.mkdir()
            try:
                layer = on_disk(place, parts, limits=LIMITS)
            except LayerError:
                continue
            found = index_snapshot(layer.index.read_bytes(), layer.tar)
            assert b"" in found
            if fsck_command():
                assert_sound(layer.index, layer.tar)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(entries(), max_size=10))
def test_index_equals_the_tree_of_the_same_layer(parts: list[bytes]) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="stacker-test-") as directory:
        try:
            Workspace(Path(directory)).unpack(*parts, limits=LIMITS)
        except LayerError:
            return
