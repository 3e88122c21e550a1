"""The record of a mount, as a value and as the document ``mount.json``.

A `MountRecord` comes in and bytes go out, or the reverse.  This module reads and writes no file,
and must not ask the kernel.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from stacker.errors import IntegrityError, UnsupportedError, json_fault

RECORD_VERSION = 1
_LAYER = r"/layers/([a-z0-9]+)/([0-9a-f]+)/diff$"  # compiled for records of early versions only
_CHAIN = r"/chains/([a-z0-9]+)/([0-9a-f]+)/[^/]+$"


@dataclass(frozen=True, slots=True)
class IndexMount:
    """A mount of a merged index.

    :param path: the index.
    :param inode: its device and inode number, which differ after a repair.
    :param point: the mount point.
    """

    path: Path
    inode: tuple[int, int]
    point: Path


@dataclass(frozen=True, slots=True)
class MountRecord:
    """One mount, written before the mount is made and removed after it is undone.

    :param id: the ID of the mount, which names its directory and its source in mountinfo.
    :param target: the absolute path of the mount point.
    :param image: the image ID.
    :param driver: the driver that made the mount, or that was tried last.
    :param read_only: whether the mount refuses writes.
    :param upper: the persistent upper directory; ``None`` when writes are discarded at unmount.
    :param layers: the stacked directories, topmost first.
    :param bound: device and inode number of the only layer, if the plan is a bind mount.
    :param boot_id: the boot ID of the kernel that made the mount.
    :param mount_namespace: the inode number of the mount namespace of the mount.
    :param target_inode: the inode number of the mount point, which identifies a copy's target.
    :param target_mode: mode, owner and group of the mount point, which unmounting a copy restores.
    :param created: when the mount was made: RFC 3339, UTC, whole seconds.
    :param fuse_adapter: the adapter, if the driver is FUSE.
    :param diff_ids: the layers that the mount uses.
    :param chain_id: the chain ID of the stack that the mount uses.
    :param index: the mount of a merged index that this mount is, or that is below its overlay.
    :param complete: whether the target holds all files of a copy.
    :param server: the PID of the FUSE server's supervisor, and its start time.
    :param runtime: the command of the OCI runtime whose container uses the mount, empty without
        one.  The mount ends with the command that made it.  ``None`` for any other mount.
    :param served: the mount point of the FUSE server, if an overlay is above it.
    """

    id: str
    target: Path
    image: str
    driver: str
    read_only: bool
    upper: Path | None
    layers: tuple[Path, ...]
    bound: tuple[int, int] | None
    boot_id: str
    mount_namespace: int
    target_inode: int
    target_mode: tuple[int, int, int]
    created: str
    fuse_adapter: str | None = None
    diff_ids: tuple[str, ...] = ()
    chain_id: str | None = None
    index: IndexMount | None = None
    complete: bool = True
    server: tuple[int, int] | None = None
    runtime: tuple[str, ...] | None = None
    served: Path | None = None

    @property
    def is_index(self) -> bool:
        """Whether the mount is one of an index, without an overlay."""
        return self.index is not None and self.index.point == self.target

    @property
    def is_directory(self) -> bool:
        """Whether no mount is at the target: it has a copy, or a runtime mounts there later."""
        return self.driver in {"copy", "runtime"}

    @property
    def has_source(self) -> bool:
        """Whether mountinfo shows the source ``stacker:<id>`` for the mount."""
        return not (self.is_directory or self.bound is not None or self.is_index)

    def to_json(self) -> dict[str, object]:
        """Return the record as a document of version `RECORD_VERSION`."""
        document = asdict(self)
        document["target"] = str(self.target)
        document["upper"] = None if self.upper is None else str(self.upper)
        document["layers"] = [str(layer) for layer in self.layers]
        document["target_mode"] = list(self.target_mode)
        document["served"] = None if self.served is None else str(self.served)
        document["bound"] = None if self.bound is None else list(self.bound)
        document["runtime"] = None if self.runtime is None else list(self.runtime)
        document["diff_ids"] = list(self.diff_ids)
        if self.index is not None:
            document["index"] = {
                "path": str(self.index.path),
                "inode": list(self.index.inode),
                "point": str(self.index.point),
            }
        return {"version": RECORD_VERSION, **document}

    def to_bytes(self) -> bytes:
        """Return the document as it is written to disk, ASCII only."""
        return json.dumps(self.to_json(), indent=1).encode("ascii") + b"\n"


def parse(data: bytes, origin: Path) -> MountRecord:
    """Parse a record.

    :param origin: the file that the bytes are from, for the error.
    :raises UnsupportedError: a later version of this program wrote the record.
    :raises IntegrityError: the record is malformed.
    """
    try:
        document = json.loads(data)
        version = document["version"]
        if version == RECORD_VERSION:
            return _from_document(document)
    except (ValueError, TypeError, KeyError) as error:
        fault = json_fault(error)
        raise IntegrityError(
            f"damaged mount record: {origin}: got {fault}, want a mount record"
        ) from None
    raise UnsupportedError(
        f"unknown mount record: {origin}: got version {version}, want version {RECORD_VERSION}",
        hint="update stacker: a newer version made the mount",
    )


def _from_document(document: dict[str, Any]) -> MountRecord:
    # Records of earlier releases lack these fields.
    ids = _ids_of(document["layers"])
    later = {"fuse_adapter": None, "index": None, "complete": True, "server": None, **ids}
    document = {**later, "runtime": None, "served": None, **document}
    values = {field.name: document[field.name] for field in fields(MountRecord)}
    values["target"] = Path(values["target"])
    values["upper"] = None if values["upper"] is None else Path(values["upper"])
    values["served"] = None if values["served"] is None else Path(values["served"])
    values["layers"] = tuple(Path(layer) for layer in values["layers"])
    values["diff_ids"] = tuple(values["diff_ids"])
    mode, owner, group = values["target_mode"]
    values["target_mode"] = (int(mode), int(owner), int(group))
    if values["bound"] is not None:
        device, inode = values["bound"]
        values["bound"] = (int(device), int(inode))
    # An earlier release wrote the PID alone, which another process can have by now.
    values["server"] = tuple(values["server"]) if isinstance(values["server"], list) else None
    values["runtime"] = None if values["runtime"] is None else tuple(values["runtime"])
    if (index := values["index"]) is not None:
        device, inode = index["inode"]
        values["index"] = IndexMount(
            Path(index["path"]), (int(device), int(inode)), Path(index["point"])
        )
    return MountRecord(**values)


def _ids_of(layers: Iterable[str]) -> dict[str, object]:
    """Return the IDs in the paths of a store, for a record that has only these paths."""
    diff_ids = [f"{m[1]}:{m[2]}" for layer in layers if (m := re.search(_LAYER, layer))]
    chain_ids = [f"{m[1]}:{m[2]}" for layer in layers if (m := re.search(_CHAIN, layer))]
    return {"diff_ids": diff_ids, "chain_id": chain_ids[0] if chain_ids else None}
