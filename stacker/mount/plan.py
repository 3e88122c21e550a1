"""A mount as values: the request of a caller, and the plan that a driver executes.

A `MountRequest` and a `StackedImage` come in; a `Plan` goes out, which `Plan.to_json` prints for
other runtimes.  This module reads and writes no file, and must not use the store.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from stacker.errors import UsageError
from stacker.linux import mountapi

if TYPE_CHECKING:
    from pathlib import Path

    from stacker.fuse.options import FuseOptions
    from stacker.layer.paths import LayerPaths, MergedIndex, Stack
    from stacker.layer.whiteout_format import WhiteoutFormat

PLAN_VERSION = 1
DRIVERS: Final = ("auto", "overlay", "fuse", "copy", "fuse-overlayfs")
"""The drivers that a request may name; `auto` tries the others but the last in this order."""
FLAGS: Final = {
    "nosuid": mountapi.MS_NOSUID,
    "nodev": mountapi.MS_NODEV,
    "noexec": mountapi.MS_NOEXEC,
}
"""Flags of mount(8) that a request may set; ``MOUNT_ATTR_*`` has the same bits."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a driver needs to make one mount; paths are absolute.

    :param id: the ID of the mount; mountinfo shows the source ``stacker:<id>``.
    :param target: the mount point.
    :param layers: the directories to stack, topmost first, as overlayfs's ``lowerdir`` lists
        them.  There is at least one, and an overlay without `upper` has at least two.
    :param whiteout_format: how deletions are written in `layers`.
    :param read_only: refuse writes, even with an `upper`.
    :param upper: the directory that receives the writes.
    :param work: overlayfs's work directory, on the same mount as `upper`.
    :param volatile: `upper` is discarded at unmount, so nothing needs to be flushed to disk.
    :param plain: the only layer has no whiteout, no opaque mark and no escaped name, so a bind
        mount exposes it correctly.
    :param empty: the last of `layers`, if it is an empty directory of the mount's own.
    :param layer_paths: the paths of those `layers` that have a skeleton.
    :param merged: the index of all layers, if the stack is one.  `layers` then has the directory
        where a driver mounts the index to put an overlay on it.
    :param shared: a mount point where the same index is mounted already.
    :param served: where the FUSE driver can mount the merged tree, to put an overlay on it.
    :param fuse: options for the FUSE driver; ``None`` for the defaults.  Other drivers ignore it.
    :param flags: names of `FLAGS`; a copy ignores them.
    """

    id: str
    target: Path
    layers: tuple[Path, ...]
    whiteout_format: WhiteoutFormat
    read_only: bool = True
    upper: Path | None = None
    work: Path | None = None
    volatile: bool = False
    plain: bool = False
    empty: Path | None = None
    layer_paths: tuple[LayerPaths, ...] = ()
    merged: MergedIndex | None = None
    shared: Path | None = None
    served: Path | None = None
    fuse: FuseOptions | None = None
    flags: frozenset[str] = frozenset()

    @property
    def root(self) -> Path:
        """A directory with the attributes of the merged root directory."""
        return self.layers[0] if self.merged is None else self.merged.root

    @property
    def attributes(self) -> int:
        """The flags for mount(2), and the attributes for fsmount(2): both have the same bits."""
        bits = mountapi.MS_RDONLY if self.read_only else 0
        for name in self.flags:
            bits |= FLAGS[name]
        return bits

    @property
    def source(self) -> str:
        """The source that /proc/self/mountinfo shows for this mount."""
        named = None if self.fuse is None else self.fuse.source
        return named or source_of(self.id)

    @property
    def is_bind(self) -> bool:
        """Whether a bind mount of the only layer exposes the merged tree."""
        alone = self.merged is None and len(self.layers) == 1
        return self.plain and self.read_only and self.upper is None and alone

    @property
    def is_index(self) -> bool:
        """Whether a mount of the index exposes the merged tree, without an overlay."""
        return self.merged is not None and self.plain and self.read_only and self.upper is None

    def above(self, served: Path) -> Plan:
        """Return the plan of the overlay on top of the merged tree that a server exposes.

        :param served: the mount point of the server.
        """
        return replace(
            self, layers=(served,), layer_paths=(), merged=None, plain=False, served=served
        )

    @property
    def index_directory(self) -> Path | None:
        """The directory where the overlay driver mounts the index below the overlay."""
        return None if self.merged is None or self.is_index else self.layers[0]

    @property
    def directories(self) -> tuple[Path, ...]:
        """The directories that must exist before a driver executes the plan."""
        wanted = (self.empty, self.upper, self.work, self.index_directory)
        return tuple(path for path in wanted if path is not None)

    def to_json(self, driver: str = "overlay") -> dict[str, object]:
        """Return the plan as a document of version `PLAN_VERSION`.

        Besides the fields of this class it has ``directories``, which the runtime creates first,
        and ``mounts``, a list of ``{type, source, options}`` as containerd's snapshotters return
        it and OCI's config.json accepts it.  A FUSE mount lists its directories as an overlay
        does, but needs a server.  A copy needs no mount.  Path bytes that are not UTF-8 become
        lone surrogates (PEP 383).

        :param driver: the name of the driver that would execute the plan.
        """
        merged = self.merged
        return {
            "version": PLAN_VERSION,
            "id": self.id,
            "target": str(self.target),
            "layers": [str(layer) for layer in self.layers],
            "xattr_namespace": self.whiteout_format.value,
            "read_only": self.read_only,
            "upper": _text(self.upper),
            "work": _text(self.work),
            "volatile": self.volatile,
            "plain": self.plain,
            "index": None if merged is None else str(merged.path),
            "tars": [] if merged is None else [str(tar) for tar in merged.tars],
            "flags": sorted(self.flags),
            "fuse_adapter": "kernel" if self.fuse is None else self.fuse.adapter,
            "fuse_passthrough": self.fuse is not None and self.fuse.passthrough,
            "directories": [str(path) for path in self.directories],
            "mounts": [] if driver == "copy" else self._mounts(driver),
        }

    def _mounts(self, driver: str) -> list[dict[str, object]]:
        mounts = [] if self.is_index else [self._mount(driver)]
        if self.merged is not None and driver == "overlay":
            devices = [f"device={_escape(tar)}" for tar in self.merged.tars]
            options = ["ro", *sorted(self.flags), *devices]
            source = str(self.merged.path)
            mounts.insert(0, {"type": "erofs", "source": source, "options": options})
            if not self.is_index:
                mounts[0]["target"] = str(self.index_directory)
        return mounts

    def _mount(self, driver: str) -> dict[str, object]:
        if driver == "fuse-overlayfs":
            kind = "fuse.fuse-overlayfs"
            return {"type": kind, "source": self.source, "options": self._directory_options()}
        if driver == "fuse":
            options = [*self._directory_options(), "default_permissions"]
            return {"type": "fuse.stacker", "source": self.source, "options": options}
        if self.is_bind:
            return {
                "type": "bind",
                "source": str(self.layers[0]),
                "options": ["bind", "ro", *sorted(self.flags)],
            }
        words = (key if value is None else f"{key}={value}" for key, value in self.parameters())
        options = [*self._directory_options(), *words]
        return {"type": "overlay", "source": self.source, "options": options}

    def _directory_options(self) -> list[str]:
        lower = ":".join(_escape(layer, ":") for layer in self.layers)
        options = ["ro" if self.read_only else "rw", *sorted(self.flags), f"lowerdir={lower}"]
        if self.upper is not None and self.work is not None:
            options += [f"upperdir={_escape(self.upper)}", f"workdir={_escape(self.work)}"]
        return options

    def parameters(self) -> list[tuple[str, str | None]]:
        """Return overlayfs's options except the directories; ``None`` marks a flag.

        redirect_dir and metacopy are off, because a layer's author could use both to expose files
        from elsewhere (Documentation/filesystems/overlayfs.rst, "Sharing and copying layers").
        xino gives files of an index or of a server, and of the upper directory, one space of inode
        numbers, so that stat(2) and readdir(3) agree (the same document, "Inode properties").
        """
        found: list[tuple[str, str | None]] = [("redirect_dir", "nofollow"), ("metacopy", "off")]
        if self.merged is not None or self.layers == (self.served,):
            found.append(("xino", "on"))
        if not self.whiteout_format.is_trusted:
            found.append(("userxattr", None))
        if self.volatile and not self.read_only:
            found.append(("volatile", None))
        return found


@dataclass(frozen=True, slots=True)
class StackedImage:
    """An image whose layers are in the store and stacked.

    :param id: the image ID, for the mount record and for messages.
    :param stack: the directories to mount.
    :param layer_paths: the paths of those directories of `stack` that have a skeleton.
    :param diff_ids: the layers of the image, as text, since this package uses no image types.
    :param chain_id: the chain ID that names `stack` in the store, as text; ``None`` for
        directories outside a store.
    """

    id: str
    stack: Stack
    layer_paths: tuple[LayerPaths, ...] = ()
    diff_ids: tuple[str, ...] = ()
    chain_id: str | None = None


@dataclass(frozen=True, slots=True)
class MountRequest:
    """The request of a caller.

    :param target: the directory to mount on.
    :param driver: a driver's name, or ``auto``.
    :param read_only: refuse writes.
    :param upper: a directory that keeps the writes; without one they are discarded at unmount.
    :param fuse: options for the FUSE driver; ``None`` for the defaults.
    :param flags: names of `FLAGS`.
    :raises UsageError: `fuse` is given, and `driver` is another one.
    """

    target: Path
    driver: str = "auto"
    read_only: bool = True
    upper: Path | None = None
    fuse: FuseOptions | None = None
    flags: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.fuse is not None and self.driver != "fuse":
            option = "--fuse-writer" if self.fuse.writer else "--fuse-adapter"
            option = "--fuse-passthrough" if self.fuse.passthrough else option
            raise UsageError(
                f"{option} requires --driver fuse: got --driver {self.driver}, want fuse",
                hint=f"add --driver fuse, or omit {option}",
            )

    def plan(
        self,
        image: StackedImage,
        identifier: str,
        directory: Path,
        *,
        shared: Path | None = None,
    ) -> Plan:
        """Return the plan of a mount of an image.

        :param identifier: the ID of the mount.
        :param directory: the mount's own directory; `Plan.empty`, and an upper and a work
            directory that are discarded at unmount, are below it.
        :param shared: a mount point where the image's index is mounted already.
        """
        upper, work, volatile = self._upper_and_work(directory)
        layers, empty = _lower_directories(image.stack, directory, alone=upper is None)
        return Plan(
            id=identifier,
            target=self.target,
            layers=layers,
            whiteout_format=image.stack.whiteout_format,
            read_only=self.read_only,
            upper=upper,
            work=work,
            volatile=volatile,
            plain=image.stack.plain or not (image.stack.directories or image.stack.merged),
            empty=empty,
            layer_paths=image.layer_paths,
            merged=image.stack.merged,
            shared=shared,
            served=None if upper is None else directory / "served",
            fuse=self.fuse,
            flags=self.flags,
        )

    def _upper_and_work(self, directory: Path) -> tuple[Path | None, Path | None, bool]:
        if self.upper is not None:
            return self.upper, work_beside(self.upper), False
        if self.read_only:
            return None, None, False
        return directory / "upper", directory / "work", True


def _lower_directories(
    stack: Stack, directory: Path, *, alone: bool
) -> tuple[tuple[Path, ...], Path | None]:
    # Overlayfs requires two directories: two lower ones, or an upper and a lower one.
    empty = directory / "empty"
    if stack.merged is not None:
        point = directory / "index"
        return (point, stack.merged.root) if alone and not stack.plain else (point,), None
    if not stack.directories:
        return (empty,), empty
    if alone and len(stack.directories) == 1 and not stack.plain:
        return (*stack.directories, empty), empty
    return stack.directories, None


def source_of(identifier: str) -> str:
    """Return the source that /proc/self/mountinfo shows for a mount of this program."""
    return f"stacker:{identifier}"


def work_beside(upper: Path) -> Path:
    """Return the work directory of a persistent upper directory: its hidden sibling.

    Overlayfs requires it on the mount of the upper directory, and not inside of it.
    """
    return upper.parent / f".{upper.name}.stacker-work"


def new_id() -> str:
    """Return a random mount ID; creating the mount's directory proves that it is unused."""
    return os.urandom(6).hex()


def _escape(path: Path, also: str = "") -> str:
    r"""Escape ``\`` and ``,`` for a mount option string, and ``:`` between lower directories."""
    text = str(path)
    for special in ("\\", ",", *also):
        text = text.replace(special, "\\" + special)
    return text


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
