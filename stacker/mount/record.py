"""What is written down about a mount, as a value and as the document ``mount.json``.

In come bytes or fields, out go the other.  Knows no directory and asks the kernel nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from stacker.errors import IntegrityError, UnsupportedError

RECORD_VERSION = 1


@dataclass(frozen=True, slots=True)
class MountRecord:
    """One mount, written before it is made and removed after it is undone.

    :param id: names the mount, its directory, and its source in mountinfo.
    :param target: the absolute path it was mounted at.
    :param image: whatever label the caller gave; not looked at.
    :param driver: the driver that made it, or tried last.
    :param read_only: whether it refuses writes.
    :param upper: the directory a person named to keep writes; ``None`` when they are thrown away.
    :param layers: topmost first.
    :param bound: device and inode of the one layer, when the plan is to bind it.
    :param boot_id: the boot it was made in.
    :param mount_namespace: the inode of the mount namespace it was made in.
    :param target_inode: the inode of the directory beneath, by which a copy knows its target.
    :param target_mode: that directory's mode, owner and group, for a copy to put back.
    :param created: RFC 3339, UTC, whole seconds.
    :param fuse_adapter: what answers, when the driver is FUSE.
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

    def to_json(self) -> dict[str, object]:
        """Give the record as a document of version `RECORD_VERSION`."""
        document = asdict(self)
        document["target"] = str(self.target)
        document["upper"] = None if self.upper is None else str(self.upper)
        document["layers"] = [str(layer) for layer in self.layers]
        document["target_mode"] = list(self.target_mode)
        document["bound"] = None if self.bound is None else list(self.bound)
        return {"version": RECORD_VERSION, **document}

    def to_bytes(self) -> bytes:
        """Give the document as it is written to disk, ASCII only."""
        return json.dumps(self.to_json(), indent=1).encode("ascii") + b"\n"


def parse(data: bytes, origin: Path) -> MountRecord:
    """Read a record back.

    :param origin: where the bytes are from, for the error.
    :raises UnsupportedError: a later version wrote it.
    :raises IntegrityError: it is not such a document.
    """
    try:
        document = json.loads(data)
        version = document["version"]
        if version == RECORD_VERSION:
            return _from_document(document)
    except (ValueError, TypeError, KeyError) as error:
        raise IntegrityError(f"mount record is malformed: {origin}: {error!r}") from None
    raise UnsupportedError(
        f"mount record is of another version: {origin}: got {version}, want {RECORD_VERSION}"
    )


def _from_document(document: dict[str, Any]) -> MountRecord:
    late = {"fuse_adapter": None}  # not in records of the first releases
    document = {**late, **document}
    values = {field.name: document[field.name] for field in fields(MountRecord)}
    values["target"] = Path(values["target"])
    values["upper"] = None if values["upper"] is None else Path(values["upper"])
    values["layers"] = tuple(Path(layer) for layer in values["layers"])
    mode, owner, group = values["target_mode"]
    values["target_mode"] = (int(mode), int(owner), int(group))
    if values["bound"] is not None:
        device, inode = values["bound"]
        values["bound"] = (int(device), int(inode))
    return MountRecord(**values)
