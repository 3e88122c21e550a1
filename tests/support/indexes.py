"""The index of a layer as a comparable value, and its comparison with the tree on disk."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from stacker.erofs.inodes import Inodes
from stacker.erofs.read import Image, Inode
from stacker.erofs.write import Tar, write_image
from stacker.jobs.tasks import UnpackOptions
from stacker.jobs.write_layer import write_layer
from stacker.layer.apply_index import apply_to_index
from stacker.layer.metadata import IDENTITY, IdMap
from stacker.layer.paths import LayerPaths, Stack
from stacker.layer.record import LayerRecord
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.stack.build_index import build_index
from stacker.stack.rebase import UnpackedLayer
from stacker.tar.limits import Limits
from stacker.tar.reader import TarReader
from tests.support.snapshot import KINDS, Node, snapshot

_MAX_PATH = 2_000
"""The longest path that is compared; longer ones cannot be opened by path."""
_EXT4_TIMES = range(-(1 << 31) * 10**9, ((1 << 34) - (1 << 31)) * 10**9)


def index_of(
    stream: bytes,
    tar: Path,
    *,
    whiteout_format: WhiteoutFormat,
    idmap: IdMap,
    limits: Limits | None = None,
) -> tuple[bytes, LayerRecord]:
    """Write a stream to the file ``tar``; return its index and its record."""
    tar.write_bytes(stream + bytes(-len(stream) % 512))
    inodes, out = Inodes(), io.BytesIO()
    reader = TarReader(iter([stream]), what="test", limits=limits)
    root, record = apply_to_index(
        reader, inodes, tar=1, whiteout_format=whiteout_format, idmap=idmap, limits=limits
    )
    with tar.open("rb") as file:
        write_image(out, inodes, root, [Tar(len(stream), file.fileno())])
    return out.getvalue(), record


def index_snapshot(index: bytes, *tars: Path) -> dict[bytes, Node]:
    """Return every path of an index, as :func:`snapshot` does for a tree."""
    image, content = Image(index, "test"), [index, *(tar.read_bytes() for tar in tars)]
    inodes = dict(_walk(image, image.inode(image.superblock.root), b""))
    groups: dict[int, list[bytes]] = {}
    for path, inode in inodes.items():
        groups.setdefault(inode.nid, []).append(path)
    return {
        path: _node(image, inode, content, groups[inode.nid])
        for path, inode in sorted(inodes.items())
    }


def _walk(image: Image, inode: Inode, path: bytes) -> Iterator[tuple[bytes, Inode]]:
    yield path, inode
    if not stat.S_ISDIR(inode.mode):
        return
    names = list(image.names(inode))
    assert [name for name, _, _ in names] == sorted({name for name, _, _ in names})
    for name, nid, _ in names:
        assert image.lookup(inode, name) == nid
        if name not in (b".", b".."):
            yield from _walk(image, image.inode(nid), path + b"/" + name if path else name)


def _node(image: Image, inode: Inode, tars: list[bytes], group: list[bytes]) -> Node:
    kind = KINDS[stat.S_IFMT(inode.mode)]
    content = b""
    if kind == "file":
        content = b"".join(
            bytes(length) if device < 0 else tars[device][start : start + length]
            for _, length, device, start in image.chunks(inode)
        )
    elif kind == "symlink":
        content = image.target(inode)
    return Node(
        kind=kind,
        mode=stat.S_IMODE(inode.mode),
        owner=(inode.uid, inode.gid),
        mtime=inode.seconds * 1_000_000_000 + inode.nanoseconds,
        size=0 if kind == "directory" else inode.size,
        content=content,
        device=inode.device if kind in ("char", "block") else 0,
        xattrs=tuple(
            (os.fsdecode(name), value) for name, value in sorted(image.xattrs(inode).items())
        ),
        group=tuple(sorted(group)),
    )


def indexed(
    number: int, stream: bytes, workspace: Path, whiteout_format: WhiteoutFormat
) -> UnpackedLayer:
    """Write a layer in EROFS form, as the pipeline does."""
    paths = LayerPaths(workspace / f"layer-{number}")
    paths.root.mkdir(exist_ok=True)
    options = UnpackOptions(whiteout_format, IDENTITY)
    name = f"layer {number}"
    record = write_layer(iter([stream]), paths, "erofs", options, what=name)
    record = record.with_blob("", len(stream))
    return UnpackedLayer.at(name, paths, record, "erofs")


def merged_stack(
    layers: Sequence[bytes],
    workspace: Path,
    whiteout_format: WhiteoutFormat,
    *,
    limits: Limits | None = None,
) -> Stack:
    """Index and merge layers; equal layers share a directory, as in a store."""
    by_tar = {
        tar: indexed(n, tar, workspace, whiteout_format)
        for n, tar in enumerate(dict.fromkeys(layers))
    }
    directory = workspace / "merged"
    directory.mkdir()
    return build_index(
        [by_tar[tar] for tar in layers],
        directory=directory,
        whiteout_format=whiteout_format,
        limits=limits,
    )


def merged_snapshot(stack: Stack) -> dict[bytes, Node]:
    """Return every path of a merged index, with the names that a mount shows."""
    assert stack.merged is not None
    found = index_snapshot(stack.merged.path.read_bytes(), *stack.merged.tars)
    return {
        path: replace(node, xattrs=tuple(sorted(_unescaped(node, stack.whiteout_format))))
        for path, node in found.items()
    }


def _unescaped(node: Node, form: WhiteoutFormat) -> Iterator[tuple[str, bytes]]:
    for name, value in node.xattrs:
        shown = form.unescape(os.fsencode(name))
        assert shown is not None, name
        yield os.fsdecode(shown), value


def assert_index_equals_tree(
    index: bytes, tar: Path, tree: Path, record: LayerRecord, other: LayerRecord
) -> None:
    """Compare an index with the tree on disk, and their records.

    Whiteouts have no attributes that matter.  Files keep the position in the tar, so only the
    record of a tree lists what was replaced or moved.
    """
    plain = replace(record, form="erofs", moved={}, replacements=())
    assert plain == replace(other, moved={}, replacements=())
    found = index_snapshot(index, tar)
    if max(map(len, found)) > _MAX_PATH:
        return
    wanted = snapshot(tree)
    assert found.keys() == wanted.keys()
    for path, node in wanted.items():
        if node.kind == "char" and node.device == 0:
            assert (found[path].kind, found[path].device) == ("char", 0)
        elif found[path].mtime in _EXT4_TIMES:
            assert found[path] == node, path
        else:
            assert replace(found[path], mtime=node.mtime) == node, path
