"""A mount as a value: what is to be stacked, where, and where writes go.

In come directories (a `Request`); out goes a `Plan`, which the drivers execute and which
`Plan.to_json` prints for other runtimes.  Nothing here touches a filesystem, and nothing here
knows a store or an image.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from stacker.fuse.options import Guise
    from stacker.layer.paths import LayerPaths

XattrNamespace = Literal["trusted", "user"]
FuseAdapter = Literal["kernel", "pyfuse3"]
"""Who speaks FUSE: the kernel's own protocol in plain Python, or libfuse by pyfuse3."""

PLAN_VERSION = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a driver needs to make one mount; paths are absolute.

    :param id: names the mount; a kernel mount shows it as its source, ``stacker:<id>``.
    :param target: the directory to mount on.
    :param layers: topmost first, as overlayfs's ``lowerdir`` lists them; at least one, and at
        least two for an overlay without `upper` (`Request.plan` sees to both).
    :param xattr_namespace: where the layers keep their opaque marks.
    :param read_only: refuse writes, even with an `upper`.
    :param upper: the directory that takes writes.
    :param work: overlayfs's scratch directory, on the same mount as `upper`.
    :param volatile: `upper` is thrown away with the mount, so that nothing need be synced.
    :param plain: a single layer that holds no whiteout, no mark and no escaped name, so that it
        can be shown as it is.
    :param empty: the one of `layers` that is only there to be empty.
    :param sources: where the parts of those `layers` lie that have more than a directory.
    :param fuse_adapter: what the FUSE driver answers by; others do not look at it.
    :param fuse_passthrough: let the kernel read large files past the FUSE driver, where it can.
    :param foreign: other programs made `layers` and `upper`, and deletions are written as theirs;
        only the FUSE driver reads such.
    :param guise: how a FUSE mount shows, unless it is as all others.
    """

    id: str
    target: Path
    layers: tuple[Path, ...]
    xattr_namespace: XattrNamespace
    read_only: bool = True
    upper: Path | None = None
    work: Path | None = None
    volatile: bool = False
    plain: bool = False
    empty: Path | None = None
    sources: tuple[LayerPaths, ...] = ()
    fuse_adapter: FuseAdapter = "kernel"
    fuse_passthrough: bool = False
    foreign: bool = False
    guise: Guise | None = None

    @property
    def source(self) -> str:
        """What /proc/self/mountinfo shows as the source of a mount of this plan."""
        return source_of(self.id) if self.guise is None else self.guise.source

    @property
    def is_bind(self) -> bool:
        """Whether the tree is one directory as it lies, so that a bind mount shows it."""
        return self.plain and self.read_only and self.upper is None and len(self.layers) == 1

    @property
    def directories(self) -> tuple[Path, ...]:
        """The directories that must be made before the plan can be executed."""
        wanted = (self.empty, self.upper, self.work)
        return tuple(path for path in wanted if path is not None)

    def to_json(self, driver: str = "overlay") -> dict[str, object]:
        """Give the plan as a document of version `PLAN_VERSION`.

        Besides the fields of this class it has ``directories``, to be made first, and
        ``mounts``, a list of ``{type, source, options}`` as containerd's snapshotters return
        and OCI's config.json takes them.  A FUSE mount names its directories as an overlay does;
        no kernel makes it by itself.  A copy is no mount.  Bytes of a path that are no UTF-8 are
        lone surrogates (PEP 383).

        :param driver: the name of the driver that would execute the plan.
        """
        return {
            "version": PLAN_VERSION,
            "id": self.id,
            "target": str(self.target),
            "layers": [str(layer) for layer in self.layers],
            "xattr_namespace": self.xattr_namespace,
            "read_only": self.read_only,
            "upper": _text(self.upper),
            "work": _text(self.work),
            "volatile": self.volatile,
            "plain": self.plain,
            "fuse_adapter": self.fuse_adapter,
            "fuse_passthrough": self.fuse_passthrough,
            "directories": [str(path) for path in self.directories],
            "mounts": [] if driver == "copy" else [self._mount(driver)],
        }

    def _mount(self, driver: str) -> dict[str, object]:
        if driver == "fuse-overlayfs":
            kind = "fuse.fuse-overlayfs"
            return {"type": kind, "source": self.source, "options": self._directories()}
        if driver == "fuse":
            options = [*self._directories(), "default_permissions"]
            return {"type": "fuse.stacker", "source": self.source, "options": options}
        if self.is_bind:
            return {"type": "bind", "source": str(self.layers[0]), "options": ["bind", "ro"]}
        words = (key if value is None else f"{key}={value}" for key, value in self.parameters())
        options = [*self._directories(), *words]
        return {"type": "overlay", "source": self.source, "options": options}

    def _directories(self) -> list[str]:
        lower = ":".join(_escape(layer, ":") for layer in self.layers)
        options = ["ro" if self.read_only else "rw", f"lowerdir={lower}"]
        if self.upper is not None and self.work is not None:
            options += [f"upperdir={_escape(self.upper)}", f"workdir={_escape(self.work)}"]
        return options

    def parameters(self) -> list[tuple[str, str | None]]:
        """Give overlayfs's options apart from the directories; ``None`` marks a flag.

        redirect_dir and metacopy are off because a layer's author could use both to show what
        lies elsewhere (Documentation/filesystems/overlayfs.rst, "Sharing and copying layers").
        """
        found: list[tuple[str, str | None]] = [("redirect_dir", "nofollow"), ("metacopy", "off")]
        if self.xattr_namespace == "user":
            found.append(("userxattr", None))
        if self.volatile and not self.read_only:
            found.append(("volatile", None))
        return found


@dataclass(frozen=True, slots=True)
class Request:
    """What a caller wants mounted; `plan` makes it executable.

    :param target: the directory to mount on.
    :param layers: topmost first; none for an image without layers.
    :param xattr_namespace: as in `Plan`.
    :param plain: as in `Plan`; only looked at when there is one layer.
    :param read_only: refuse writes.
    :param upper: a directory that keeps the writes; without one they go with the mount.
    :param sources: as in `Plan`.
    :param fuse_adapter: as in `Plan`.
    :param fuse_passthrough: as in `Plan`.
    """

    target: Path
    layers: tuple[Path, ...]
    xattr_namespace: XattrNamespace
    plain: bool = False
    read_only: bool = True
    upper: Path | None = None
    sources: tuple[LayerPaths, ...] = ()
    fuse_adapter: FuseAdapter = "kernel"
    fuse_passthrough: bool = False

    def plan(self, identifier: str, room: Path) -> Plan:
        """Lay the mount out, with everything that goes with it below one directory.

        :param identifier: names the mount.
        :param room: the mount's own directory; `empty`, `upper` and `work` are placed in it.
        """
        upper, work, volatile = self._upper_and_work(room)
        layers, empty = self._lowers(room / "empty", alone=upper is None)
        return Plan(
            id=identifier,
            target=self.target,
            layers=layers,
            xattr_namespace=self.xattr_namespace,
            read_only=self.read_only,
            upper=upper,
            work=work,
            volatile=volatile,
            plain=self.plain or not self.layers,
            empty=empty,
            sources=self.sources,
            fuse_adapter=self.fuse_adapter,
            fuse_passthrough=self.fuse_passthrough,
        )

    def _upper_and_work(self, room: Path) -> tuple[Path | None, Path | None, bool]:
        if self.upper is not None:
            return self.upper, work_beside(self.upper), False
        if self.read_only:
            return None, None, False
        return room / "upper", room / "work", True

    def _lowers(self, empty: Path, *, alone: bool) -> tuple[tuple[Path, ...], Path | None]:
        # Overlayfs wants two directories: two lowers, or an upper and a lower.
        if not self.layers:
            return (empty,), empty
        if alone and len(self.layers) == 1 and not self.plain:
            return (*self.layers, empty), empty
        return self.layers, None


def source_of(identifier: str) -> str:
    """Give the source by which /proc/self/mountinfo shows a mount of ours."""
    return f"stacker:{identifier}"


def work_beside(upper: Path) -> Path:
    """Give the scratch directory of an upper that a person named: its hidden sibling.

    It must lie on the upper's own mount, and not inside it.
    """
    return upper.parent / f".{upper.name}.stacker-work"


def new_id() -> str:
    """Invent a name for a mount; making its directory is what proves it unused."""
    return os.urandom(6).hex()


def _escape(path: Path, also: str = "") -> str:
    r"""Escape ``\`` and ``,`` for a mount option string, and ``:`` between lower directories."""
    text = str(path)
    for special in ("\\", ",", *also):
        text = text.replace(special, "\\" + special)
    return text


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
