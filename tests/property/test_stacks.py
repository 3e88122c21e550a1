"""DESIGN section 5 as a law: a stack shows what applying its layers in turn would make.

Random stacks; the kernel's overlay, the flat copy and a plain sequential applier written for the
test must agree by path, type, mode, owner, time, size, xattrs, content and link group.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from stacker.errors import LayerError
from stacker.layer.apply import apply
from stacker.layer.skeleton import SkeletonWriter, reassembled
from stacker.layer.tar import TarReader
from stacker.layer.whiteout import WhiteoutFormat
from stacker.linux.mountapi import umount2
from stacker.mount.overlay import OverlayDriver
from stacker.mount.plan import Request
from stacker.stack.chain import Chain, chained
from stacker.stack.flatten import flatten
from stacker.stack.rebase import Unpacked
from tests import tars
from tests.sequential import ImpossibleError, Item, Sequential
from tests.snapshot import snapshot

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts an overlay: needs root")
ROOM = "/dev/shm" if os.path.isdir("/dev/shm") else None

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
    """Draw up to four layers, of which one may come twice."""
    layers = draw(st.lists(LAYER, min_size=1, max_size=4))
    if len(layers) > 1 and draw(st.booleans()):
        layers.append(layers[draw(st.integers(0, len(layers) - 2))])
    return tuple(layers)


def archive(layer: Sequence[Item]) -> bytes:
    """Write a layer as a tar."""
    return tars.tar(*(_member(item) for item in layer))


def _member(item: Item) -> bytes:
    options: tars.Options = {
        "mode": item.mode,
        "uid": item.uid,
        "gid": item.gid,
        "mtime": item.mtime // 1_000_000_000,
    }
    if item.xattrs:
        options["xattrs"] = dict(item.xattrs)
    match item.kind:
        case "file":
            return tars.file(item.path, item.data, **options)
        case "directory":
            return tars.dir((item.path or ".") + "/", **options)
        case "symlink":
            return tars.symlink(item.path, item.data, **options)
        case "link":
            return tars.hardlink(item.path, item.data, **options)
        case "fifo":
            return tars.fifo(item.path, **options)
        case "whiteout":
            return tars.whiteout(item.path)
        case _:
            return tars.opaque(item.path)


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a directory that is gone afterwards."""
    directory = tempfile.mkdtemp(dir=ROOM, prefix="stacker-law-")
    try:
        yield Path(directory)
    finally:
        shutil.rmtree(directory)


def unpacked(number: int, tar: bytes, room: Path, form: WhiteoutFormat) -> Unpacked:
    """Unpack a layer the way the pipeline does, and check its skeleton."""
    place = room / f"layer-{number}"
    (place / "diff").mkdir(parents=True)
    skeleton, aside = place / "skeleton", place / "replaced"
    with skeleton.open("wb") as file:
        writer = SkeletonWriter(file)
        reader = TarReader(iter([tar]), what=f"layer {number}", keep=writer.keep)
        record = apply(reader, place / "diff", aside=aside, form=form)
        writer.finish()
    again = io.BytesIO()
    for chunk in reassembled(skeleton, record, place / "diff", aside, what="layer"):
        again.write(chunk)
    assert again.getvalue() == tar
    return Unpacked(f"layer {number}", place / "diff", skeleton, aside, record)


def stacked(layers: Sequence[bytes], room: Path, form: WhiteoutFormat) -> Chain:
    """Unpack and stack; equal layers are one directory, as in a store."""
    by_tar = {tar: unpacked(n, tar, room, form) for n, tar in enumerate(dict.fromkeys(layers))}
    repairs = room / "chain"
    repairs.mkdir()
    return chained([by_tar[tar] for tar in layers], room=repairs, form=form)


@contextmanager
def mounted(chain: Chain, room: Path) -> Iterator[Path]:
    """Mount a chain read-only."""
    target = room / "target"
    target.mkdir()
    request = Request(target, chain.directories, chain.form.value, plain=chain.plain)
    plan = request.plan("law", room)
    for directory in plan.directories:
        directory.mkdir(exist_ok=True)
    OverlayDriver().mount(plan)
    try:
        yield target
    finally:
        umount2(target, 0)


def check(layers: Sequence[Sequence[Item]], form: WhiteoutFormat) -> None:
    """Compare the three ways to see a stack."""
    reference = Sequential()
    try:
        for layer in layers:
            reference.apply(layer)
        wanted = reference.snapshot()
    except ImpossibleError:
        wanted = None
    with scratch() as room:
        if wanted is None:
            with pytest.raises(LayerError):
                stacked([archive(layer) for layer in layers], room, form)
            return
        chain = stacked([archive(layer) for layer in layers], room, form)
        flat = room / "flat"
        flat.mkdir()
        flatten(chain.directories, flat, xattr_namespace=form.value)
        assert snapshot(flat) == wanted
        with mounted(chain, room) as target:
            assert snapshot(target) == wanted


def D(path: str, **more: object) -> Item:
    return Item("directory", path, mode=0o755, **more)  # type: ignore[arg-type]


def F(path: str, data: bytes = b"x") -> Item:
    return Item("file", path, data)


def S(path: str, target: str) -> Item:
    return Item("symlink", path, target.encode())


def L(path: str, target: str) -> Item:
    return Item("link", path, target.encode())


def W(path: str) -> Item:
    return Item("whiteout", path)


def O(path: str) -> Item:  # noqa: E743
    return Item("opaque", path)


@needs_root
@pytest.mark.parametrize("form", list(WhiteoutFormat))
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
@example(((D("a"), F("a/b")), (F("a/x"), W("a"))))
@example(((D("a"), F("a/b")), (O("a"), F("a/x"))))
@example(((D("a"), F("a/b")), (D("a"), W("a/b")), (D("a"), F("a/b"))))
@example(((S("lib", "usr/lib"), F("usr/lib/x")), (W("lib/x"),)))
@example(((S("lib", "usr"), F("usr/x")), (F("lib/b"), S("lib", "usr"))))
@example(((F("a"),), (O(""), F("b"))))
def test_a_stack_shows_what_applying_its_layers_in_turn_would_make(
    form: WhiteoutFormat, layers: tuple[tuple[Item, ...], ...]
) -> None:
    check(layers, form)
