"""Export an image of the store as one file: a tar, an EROFS image or a squashfs image.

A store, an image's name and an open file come in; the bytes of the file and an `Exported` go out.
The image and its layers stay locked meanwhile, and are compared with their digests first.  This
module unpacks nothing and makes no mount.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from stacker.errors import IntegrityError, StackerError, UsageError, full_disk_hint
from stacker.image.digest import Digest, ImageID
from stacker.layer.root import IMPLIED_MODE
from stacker.layer.tar_stream import layer_tar
from stacker.linux import safe_path
from stacker.linux.filesystem import replaced_atomically, sweep_temporaries
from stacker.operations.durability import ensure_sound
from stacker.operations.mount import stacked_image
from stacker.operations.squashfs import squashfs_writer
from stacker.operations.verify import verify_images
from stacker.stream.verify import verified
from stacker.tree.archive import TreeArchive
from stacker.tree.erofs_image import ErofsImage
from stacker.tree.indexed import open_index
from stacker.tree.merged import merge
from stacker.tree.protocol import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

    from stacker.events import Emit
    from stacker.mount.plan import StackedImage
    from stacker.operations.durability import Restore
    from stacker.store.store import Store
    from stacker.tree.protocol import LowerTree

ExportFormat: TypeAlias = Literal["tar", "erofs", "squashfs"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """How to export.

    :param format: the format of the file.
    :param layer: the number of the only layer to export, from 1 for the base; ``None`` for the
        merged tree.  A layer is always a tar.
    :param contents: compare the contents of files with the diff_ids, too, not only attributes.
    :param jobs: the number of layers to compare at the same time.
    """

    format: ExportFormat = "tar"
    layer: int | None = None
    contents: bool = False
    jobs: int = 1


@dataclass(frozen=True, slots=True)
class Exported:
    """The result of an export.

    :param digest: of the file.
    :param size: bytes.
    :param entries: the members of the tar; ``None`` for a single layer.
    """

    image_id: ImageID
    digest: Digest
    size: int
    entries: int | None


def export_image(
    store: Store,
    name: str,
    out: BinaryIO,
    options: ExportOptions,
    *,
    emit: Emit,
    restore: Restore | None = None,
) -> Exported:
    """Write an image, or one layer of it, to an open file.

    :param name: an image ID, a unique prefix of one, or a name.
    :param out: an empty file; for EROFS and squashfs a regular one with a descriptor.
    :param emit: receives `PackProgress` while the layers are compared.
    :param restore: unpacks missing layers, and layers that a power cut damaged.
    :raises UsageError: the image has no such layer.
    :raises NotFoundError: the store lacks the image or one of its layers.
    :raises IntegrityError: a file of a layer on disk has changed.
    :raises UnsupportedError: the format cannot hold a file, or its program is missing.
    """
    if options.layer is not None:
        return _export_layer(store, name, options.layer, out, restore)
    check = partial(_require_sound, options=options, emit=emit)
    with stacked_image(store, name, restore, check) as image, ExitStack() as opened:
        tree = _open_tree(store, image, opened)
        digest, size, entries = _export_tree(tree, f"image {image.id}", out, options.format)
        return Exported(ImageID.parse(image.id), digest, size, entries)


def _export_tree(
    tree: LowerTree, what: str, out: BinaryIO, kind: ExportFormat
) -> tuple[Digest, int, int]:
    """Write a tree; return the digest and the size of the file, and the number of entries."""
    if kind == "erofs":
        image = ErofsImage(tree, what)
        image.write(out)
        out.flush()
        return *_digest_of(out), image.entries
    archive = TreeArchive(tree, what)
    if kind == "tar":
        return *_write(archive.chunks(), out), archive.entries
    with squashfs_writer(out, tree.status(ROOT)) as pipe:
        pipe.writelines(archive.chunks())
    return *_digest_of(out), archive.entries


def _open_tree(store: Store, image: StackedImage, opened: ExitStack) -> LowerTree:
    """Read the merged tree of an image; what it needs is closed with ``opened``."""
    stack = image.stack
    if stack.merged is not None:
        return opened.enter_context(closing(open_index(stack.merged, stack.whiteout_format)))
    known = {paths.diff: paths for paths in image.layer_paths}
    sources = [known.get(path, path) for path in stack.directories]
    if not sources:  # an image without layers
        empty = opened.enter_context(store.staging.directory("export"))
        empty.chmod(IMPLIED_MODE)
        os.utime(empty, (0, 0))
        return merge([empty], stack.whiteout_format)
    return merge(sources, stack.whiteout_format)


def _export_layer(
    store: Store, name: str, number: int, out: BinaryIO, restore: Restore | None
) -> Exported:
    """Write the tar of one layer, and compare its SHA-256 with the diff_id meanwhile."""
    image_id = store.images.find(name)
    ensure_sound(store, image_id, restore)
    with store.images.reading(image_id) as config:
        if not 1 <= number <= len(config.diff_ids):
            raise UsageError(
                f"no such layer: got --layer {number}, want 1 to {len(config.diff_ids)}",
                hint=f"`stacker layers {image_id.short}` lists the layers, base first",
            )
        diff_id = config.diff_ids[number - 1]
        with store.layers.reading([diff_id]):
            what = f"layer {diff_id}"
            chunks = layer_tar(store.layers.paths(diff_id), store.layers.record(diff_id), what=what)
            digest, size = _write(verified(chunks, digest=diff_id, what=what), out)
    return Exported(image_id, digest, size, None)


def _require_sound(store: Store, image_id: ImageID, options: ExportOptions, emit: Emit) -> None:
    """Compare an image, its layers and its chain with their digests.

    :raises IntegrityError: they differ.
    """
    found = verify_images(
        store, [image_id], contents=options.contents, jobs=options.jobs, emit=emit
    )
    hint = f"`stacker repair {image_id.short}` replaces damaged layers and chains"
    for image in found.images:
        if image.damage is not None:
            raise IntegrityError(f"damaged: image {image_id}: {image.damage}", hint=hint)
    parts = [(f"layer {layer.diff_id}", layer.damage, layer.differences) for layer in found.damaged]
    parts += [
        (f"chain {each.chain_id}", each.damage, each.differences) for each in found.damaged_chains
    ]
    for what, damage, differences in parts:
        # The time of a directory is only a consequence of another difference.
        first = damage or min(differences, key=lambda each: each.what == "mtime")
        raise IntegrityError(f"damaged: {what}: {first}", hint=hint)


def _write(chunks: Iterable[bytes], out: BinaryIO) -> tuple[Digest, int]:
    running, size = hashlib.sha256(), 0
    for chunk in chunks:
        running.update(chunk)
        size += len(chunk)
        out.write(chunk)
    return Digest("sha256", running.hexdigest()), size


def _digest_of(out: BinaryIO) -> tuple[Digest, int]:
    with Path(f"/proc/self/fd/{out.fileno()}").open("rb") as file:
        hexadecimal = hashlib.file_digest(file, "sha256").hexdigest()
        return Digest("sha256", hexadecimal), os.fstat(file.fileno()).st_size


@contextmanager
def export_file(path: Path, *, umask: int) -> Iterator[BinaryIO]:
    """Yield a temporary file, which replaces ``path`` when the block succeeds.

    :param umask: the permissions that the file does not get.
    :raises UsageError: ``path`` is something other than a regular file.
    :raises StackerError: the file cannot be created or written.
    """
    try:
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(
                f"not a regular file: {path}", hint="name a file, or omit -o and redirect stdout"
            )
        above = safe_path.open_directory(path.absolute().parent, follow=True)
        try:
            final = Path(f"/proc/self/fd/{above}", path.name)
            sweep_temporaries(final.parent, final.name)
            with replaced_atomically(final, durable=True, mode=0o666 & ~umask) as file:
                yield file
        finally:
            os.close(above)
    except OSError as error:
        text = f"cannot write: {path}: {error.strerror or error}"
        raise StackerError(text, hint=full_disk_hint(error)) from error
