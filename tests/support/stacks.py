"""Build stacks from short descriptions of layers, through the package's own pipeline."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stacker.fuse.options import FuseAdapter, FuseOptions
from stacker.layer.apply import apply
from stacker.layer.paths import LayerPaths, Stack
from stacker.layer.skeleton import SkeletonWriter, reassemble
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux.mountapi import umount2
from stacker.mount.drivers.overlay import OverlayDriver
from stacker.mount.drivers.protocol import Driver
from stacker.mount.plan import MountRequest, StackedImage
from stacker.operations.verify_chain import stack_differences
from stacker.stack.build import build_stack
from stacker.stack.rebase import UnpackedLayer
from stacker.tar.limits import Limits
from stacker.tar.reader import TarReader
from tests.support import tars
from tests.support.sequential import Item

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None


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


def archive(layer: Sequence[Item]) -> bytes:
    """Return a layer as a tar."""
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
    """Yield a directory, and remove it afterwards."""
    directory = tempfile.mkdtemp(dir=MEMORY, prefix="stacker-test-")
    try:
        yield Path(directory)
    finally:
        shutil.rmtree(directory)


def unpacked(
    number: int, tar: bytes, workspace: Path, whiteout_format: WhiteoutFormat
) -> UnpackedLayer:
    """Unpack a layer as the pipeline does, and check its skeleton."""
    paths = LayerPaths(workspace / f"layer-{number}")
    paths.diff.mkdir(parents=True, exist_ok=True)
    with paths.skeleton.open("wb") as file:
        writer = SkeletonWriter(file)
        reader = TarReader(iter([tar]), what=f"layer {number}", keep=writer.keep)
        record = apply(reader, paths.diff, replaced=paths.replaced, whiteout_format=whiteout_format)
        writer.finish()
    paths.record.write_bytes(record.to_json())
    again = io.BytesIO()
    for chunk in reassemble(paths, record, what="layer"):
        again.write(chunk)
    assert again.getvalue() == tar
    return UnpackedLayer.at(f"layer {number}", paths, record)


def unpacked_stack(
    layers: Sequence[bytes],
    workspace: Path,
    whiteout_format: WhiteoutFormat,
    *,
    limits: Limits | None = None,
) -> Stack:
    """Unpack and stack layers; equal layers share a directory, as in a store.

    Check that the same layers give the same stack again, as `stacker verify` expects.
    """
    by_tar = {
        tar: unpacked(n, tar, workspace, whiteout_format)
        for n, tar in enumerate(dict.fromkeys(layers))
    }
    repairs, again = workspace / "chain", workspace / "again"
    built = []
    for directory in (repairs, again):
        directory.mkdir()
        built += [
            build_stack(
                [by_tar[tar] for tar in layers],
                repairs=directory,
                whiteout_format=whiteout_format,
                limits=limits,
            )
        ]
    assert not [*stack_differences(repairs, built[0], again, built[1], contents=True)]
    shutil.rmtree(again)
    return built[0]


def layer_paths(stack: Stack) -> tuple[LayerPaths, ...]:
    """Return the layers of a stack that have a skeleton."""
    return tuple(
        LayerPaths(directory.parent)
        for directory in stack.directories
        if (directory.parent / "layer.json").exists()
    )


@contextmanager
def mounted(
    stack: Stack,
    workspace: Path,
    driver: Driver | None = None,
    *,
    fuse_adapter: FuseAdapter = "kernel",
) -> Iterator[Path]:
    """Mount a stack read-only."""
    target = workspace / "target"
    target.mkdir(exist_ok=True)
    image = StackedImage("image", stack, layer_paths(stack))
    options = FuseOptions(fuse_adapter)
    plan = MountRequest(target, "fuse", fuse=options).plan(image, "property", workspace)
    for directory in plan.directories:
        directory.mkdir(exist_ok=True)
    (driver or OverlayDriver()).mount(plan)
    try:
        yield target
    finally:
        umount2(target, 0)
        if plan.index_directory is not None and os.path.ismount(plan.index_directory):
            umount2(plan.index_directory, 0)  # below an overlay; a FUSE server mounts no index
