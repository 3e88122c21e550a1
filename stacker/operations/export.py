"""Export an image of the store as one file: a tar, an EROFS image or a squashfs image.

A store, an image's name and an open file come in; the bytes of the file and an `Exported` go out.
The image and its layers stay locked meanwhile, and are compared with their digests first.  This
module unpacks nothing and makes no mount.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Literal, TypeAlias, cast, get_args

from stacker.erofs.inodes import SECOND
from stacker.errors import IntegrityError, StackerError, UnsupportedError, UsageError
from stacker.events import ExportProgress, Throttle
from stacker.image.digest import Digest, ImageID
from stacker.layer.root import IMPLIED_MODE
from stacker.layer.tar_stream import layer_tar
from stacker.operations.durability import ensure_sound
from stacker.operations.mount import stacked_image
from stacker.operations.verify import verify_images
from stacker.stream.verify import metered, verified
from stacker.tree.archive import TreeArchive
from stacker.tree.erofs_image import ErofsImage
from stacker.tree.indexed import open_index
from stacker.tree.merged import merge
from stacker.tree.protocol import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stacker.events import Emit
    from stacker.mount.plan import StackedImage
    from stacker.operations.durability import Restore
    from stacker.store.store import Store
    from stacker.tree.protocol import LowerTree, Status

ExportFormat: TypeAlias = Literal["tar", "erofs", "squashfs"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)
_SQUASHFS_PROGRAMS: Final = {
    "tar2sqfs": ("--force", "--quiet", "--no-skip"),
    "sqfstar": ("-force", "-quiet", "-no-progress", "-mkfs-time", "0"),
}
"""The programs and their options, first the one that stores the xattrs of the root directory."""
_MAX_MESSAGE: Final = 500


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

    :param digest: the SHA-256 of the file.
    :param size: the size of the file, in bytes.
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
    :param emit: receives `PackProgress` while the layers are compared, then `ExportProgress`.
    :param restore: unpacks missing layers, and layers that a power cut damaged.
    :raises UsageError: the image has no such layer.
    :raises NotFoundError: the store lacks the image or one of its layers.
    :raises IntegrityError: a file of a layer on disk has changed.
    :raises UnsupportedError: the format cannot hold a file, or its program is missing.
    """
    if options.layer is not None:
        image_id = store.images.find(name)
        ensure_sound(store, image_id, restore)
        return _export_layer(store, image_id, options.layer, out, _Progress(emit))
    check = partial(_require_sound, options=options, emit=emit)
    with stacked_image(store, name, restore, check) as image, ExitStack() as opened:
        tree = _open_tree(store, image, opened)
        what, progress = f"image {image.id}", _Progress(emit)
        digest, size, entries = _export_tree(tree, what, out, options.format, progress)
        progress.finish()
        return Exported(ImageID.parse(image.id), digest, size, entries)


def _export_tree(
    tree: LowerTree, what: str, out: BinaryIO, kind: ExportFormat, progress: _Progress
) -> tuple[Digest, int, int]:
    """Write a tree; return the digest and the size of the file, and the number of entries."""
    if kind == "erofs":
        image = ErofsImage(tree, what)
        image.write(out, progress.add)
        out.flush()
        return *_digest_of(out), image.entries
    archive = TreeArchive(tree, what)
    chunks = metered(archive.chunks(), progress.add)
    if kind == "tar":
        return *_write(chunks, out), archive.entries
    with _squashfs_writer(out, tree.status(ROOT)) as pipe:
        pipe.writelines(chunks)
    return *_digest_of(out), archive.entries


def _open_tree(store: Store, image: StackedImage, opened: ExitStack) -> LowerTree:
    """Read the merged tree of an image; ``opened`` closes the files that it needs."""
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
    store: Store, image_id: ImageID, number: int, out: BinaryIO, progress: _Progress
) -> Exported:
    """Write the tar of one layer, and compare its SHA-256 with the diff_id meanwhile."""
    with store.images.reading(image_id) as config:
        if not 1 <= number <= len(config.diff_ids):
            raise UsageError(
                f"no such layer: got --layer {number}, want 1 to {len(config.diff_ids)}",
                hint=f"`stacker layers {image_id.short}` lists the layers, base first",
            )
        diff_id = config.diff_ids[number - 1]
        with store.layers.reading([diff_id]):
            what = f"layer {diff_id}"
            record = store.layers.record(diff_id)
            progress.total = record.tar_bytes
            chunks = metered(
                layer_tar(store.layers.paths(diff_id), record, what=what), progress.add
            )
            digest, size = _write(verified(chunks, digest=diff_id, what=what), out)
            progress.finish()
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


class _Progress:
    """Counts the bytes of an export, and reports them.

    ``total`` is the size of the whole file; ``None`` if it is known only at the end.
    """

    def __init__(self, emit: Emit) -> None:
        self.total: int | None = None
        self._emit = emit
        self._throttle = Throttle()
        self._done = 0

    def add(self, count: int) -> None:
        """Count more bytes."""
        self._done += count
        if self._throttle.is_due(self._done):
            self._emit(ExportProgress(self._done, self.total))

    def finish(self) -> None:
        """Report all bytes, and that no more follow."""
        self._emit(ExportProgress(self._done, self._done))


def _digest_of(out: BinaryIO) -> tuple[Digest, int]:
    with Path(f"/proc/self/fd/{out.fileno()}").open("rb") as file:
        hexadecimal = hashlib.file_digest(file, "sha256").hexdigest()
        return Digest("sha256", hexadecimal), os.fstat(file.fileno()).st_size


@contextmanager
def _squashfs_writer(out: BinaryIO, root: Status) -> Iterator[BinaryIO]:
    """Yield a pipe for a tar; at the end of the context ``out`` has the image.

    :param out: an empty regular file.
    :param root: the attributes of the root directory.
    :raises UnsupportedError: neither program is installed.
    :raises StackerError: the program failed; the message has the end of its stderr.
    """
    program, path = _find()
    fd = out.fileno()
    with tempfile.TemporaryFile() as messages:
        options = [
            *_SQUASHFS_PROGRAMS[program],
            *(_root_options(root) if program == "sqfstar" else ()),
        ]
        # The times of the tar must stay; sqfstar refuses -mkfs-time beside the variable.
        command = ["env", "-u", "SOURCE_DATE_EPOCH", path, *options, f"/proc/self/fd/{fd}"]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=messages,
            pass_fds=[fd],
        )
        pipe = cast("BinaryIO", process.stdin)
        try:
            with suppress(BrokenPipeError):  # the exit code and stderr say why
                yield pipe
                pipe.close()
            code = process.wait()
        finally:
            process.kill()  # after an error, the program must not complete the image
            process.wait()
            with suppress(BrokenPipeError):  # a program that does not read would block the flush
                pipe.close()
        if code:
            messages.seek(0)
            text = messages.read().decode(errors="replace").strip()[-_MAX_MESSAGE:]
            raise StackerError(f"cannot make a squashfs image: {program}: {text or code}")


def _root_options(root: Status) -> Iterator[str]:
    """Yield the options for the root directory, whose member of the tar sqfstar ignores."""
    time = min(max(0, root.mtime // SECOND), 0xFFFF_FFFF)
    yield from ("-root-mode", f"{stat.S_IMODE(root.mode):o}", "-root-time", str(time))
    yield from ("-root-uid", str(root.uid), "-root-gid", str(root.gid))


def _find() -> tuple[str, str]:
    for program in _SQUASHFS_PROGRAMS:
        path = shutil.which(program)
        if path is not None:
            return program, path
    raise UnsupportedError(
        "cannot make a squashfs image: got neither sqfstar nor tar2sqfs, want one of them",
        hint="install the package squashfs-tools or squashfs-tools-ng",
    )
