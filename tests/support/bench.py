"""A store-like directory, an empty target and a mount table for tests of mounts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.layer.paths import Stack
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import mountinfo
from stacker.mount.attach import attach
from stacker.mount.plan import MountRequest, StackedImage
from stacker.mount.table import Table

if TYPE_CHECKING:
    from stacker.mount.drivers.protocol import Mounted
    from stacker.mount.record import MountRecord


def image_of(
    *layers: Path,
    whiteout_format: WhiteoutFormat = WhiteoutFormat.TRUSTED,
    plain: bool = False,
) -> StackedImage:
    """Return directories as an image, topmost first."""
    return StackedImage("image", Stack(layers, whiteout_format, plain))


@dataclass(frozen=True, slots=True)
class Bench:
    """A store-like directory, an empty target and a mount table below one directory."""

    path: Path

    @property
    def store(self) -> Path:
        return self.path / "store"

    @property
    def target(self) -> Path:
        return self.path / "target"

    @property
    def table(self) -> Table:
        return Table(self.store / "mounts")

    def layer(self, name: str, **files: str) -> Path:
        """Write a layer of files; `__` in a key means `/`."""
        path = self.store / "layers" / name
        path.mkdir(parents=True)
        for key, text in files.items():
            file = path / key.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        return path

    def request(
        self, *, driver: str = "auto", read_only: bool = True, upper: Path | None = None
    ) -> MountRequest:
        return MountRequest(self.target, driver, read_only, upper)

    def mount(
        self, request: MountRequest, *layers: Path, plain: bool = False
    ) -> tuple[MountRecord, Mounted]:
        image = image_of(*layers, plain=plain)
        return attach(self.table, request, image, forbidden=self.store)

    def left(self) -> list[str]:
        """Return what a failed mount could leave behind outside the layers."""
        records = self.store / "mounts"
        found = sorted(os.listdir(records)) if records.exists() else []
        found += sorted(os.listdir(self.target)) if self.target.is_dir() else []
        mounts = mountinfo.read().mounts
        found += [str(m.mount_point) for m in mounts if m.mount_point.is_relative_to(self.path)]
        return found


USER_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


def request(
    place: Path, *, driver: str = "auto", read_only: bool = True, upper: Path | None = None
) -> MountRequest:
    return MountRequest(place / "target", driver, read_only, upper)


def image(place: Path, *more: Path) -> StackedImage:
    return image_of(place / "layers/upper", place / "layers/lower", *more)


def table(place: Path) -> Table:
    return Table(place / "mounts")


def nothing_is_left(place: Path) -> bool:
    directories = place / "mounts"
    return (
        mountinfo.read().below(place) == []
        and (not directories.exists() or os.listdir(directories) == [])
        and os.listdir(place / "target") == []
        and sorted(os.listdir(place)) in (["layers", "target"], ["layers", "mounts", "target"])
    )
