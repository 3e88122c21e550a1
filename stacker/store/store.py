"""Open or create a store.

    $STORE/stacker.json                 version and whiteout format of the store
    $STORE/oci-layout, index.json       the blob store is an OCI image layout
    $STORE/blobs/<algorithm>/<hex>
    $STORE/layers/<algorithm>/<hex>/    diff, layer.json, skeleton.tar.zst
    $STORE/chains/<algorithm>/<hex>/    chain.json, and the fixup directories of a stack
    $STORE/indexes/<hex>.json           indexes that `stacker index` created
    $STORE/mounts/<id>/                 belongs to stacker.mount
    $STORE/partial/<name>               partial blobs of interrupted downloads
    $STORE/staging/<name>/              unfinished work, which rename(2) moves into the store

`Store.open` takes a directory and returns a `Store` with one property for each part.  The directory
has mode 0700, so that other users cannot run set-user-ID files of an image.  This module does not
read the parts.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.errors import StackerError, UnsupportedError, UsageError
from stacker.linux import lock, safe_path
from stacker.linux.filesystem import is_temporary, sweep_temporaries, write_atomically

if TYPE_CHECKING:
    from stacker.layer.whiteout_format import WhiteoutFormat
    from stacker.store.blobs import BlobStore
    from stacker.store.chains import ChainStore
    from stacker.store.images import ImageStore
    from stacker.store.indexes import IndexStore
    from stacker.store.layers import LayerStore
    from stacker.store.partials import PartialStore
    from stacker.store.staging import Staging

VERSION = 1
_METADATA = "stacker.json"


@dataclass(frozen=True, slots=True)
class Store:
    """The store in the directory ``root``; :meth:`open` returns one.

    Each property imports its module on use, because an unmount needs none and a mount needs few.
    """

    root: Path

    @property
    def exists(self) -> bool:
        """Whether the store has been created."""
        return (self.root / _METADATA).exists()

    @property
    def blobs(self) -> BlobStore:
        """Blobs by digest."""
        from stacker.store.blobs import BlobStore

        return BlobStore(self.root / "blobs")

    @property
    def images(self) -> ImageStore:
        """Images by ID and by name."""
        from stacker.store.images import ImageStore

        return ImageStore(self.root, self.blobs)

    @property
    def indexes(self) -> IndexStore:
        """Indexes by name."""
        from stacker.store.indexes import IndexStore

        return IndexStore(self.root, self.blobs)

    @property
    def layers(self) -> LayerStore:
        """Unpacked layers by diff_id."""
        from stacker.store.layers import LayerStore

        return LayerStore(self.root / "layers", self.staging)

    @property
    def chains(self) -> ChainStore:
        """Stacks by chain ID."""
        from stacker.store.chains import ChainStore

        return ChainStore(self.root, self.staging)

    @property
    def staging(self) -> Staging:
        """Directories for unfinished work."""
        from stacker.store.staging import Staging

        return Staging(self.root / "staging")

    @property
    def partials(self) -> PartialStore:
        """Partial blobs of interrupted downloads."""
        from stacker.store.partials import PartialStore

        return PartialStore(self.root / "partial")

    @property
    def mounts(self) -> Path:
        """The directory of the mount table."""
        return self.root / "mounts"

    @property
    def pull_lock(self) -> Path:
        """The file that pulls, mounts and unpacks share, and that `gc` locks alone.

        No image lists the layers of a running pull.  A mount or an unpack that was given the
        digest of a config uses a stack that perhaps no image lists.
        """
        return self.root / "pull.lock"

    @property
    def whiteout_format(self) -> WhiteoutFormat:
        """The whiteout format for images without layers, recorded when the store was created.

        If an older version created the store, this is the format that this process can write.

        :raises StackerError: the recorded format is unknown.
        """
        from stacker.layer.whiteout_format import WhiteoutFormat

        metadata = self.root / _METADATA
        try:
            recorded = json.loads(metadata.read_bytes()).get("whiteoutFormat")
            return WhiteoutFormat(recorded) if recorded else WhiteoutFormat.permitted()
        except ValueError as error:
            raise _damaged(metadata, error) from error

    @classmethod
    def open(cls, root: Path, *, create: bool = True) -> Store:
        """Open a store; create it if the directory is missing or empty.

        :param create: create a missing store; if false, treat it as an empty one.
        :raises UsageError: the directory is not a store, or another user can replace it.
        :raises UnsupportedError: a newer version of stacker created the store.
        :raises StackerError: the directory cannot be created or read.
        """
        try:
            root = safe_path.resolve(root)
            _refuse_replaceable(root)
            _ensure(root, create=create)
        except OSError as error:
            raise StackerError(
                f"cannot open the store: {root}: {error.strerror}",
                hint="name a writable directory with --store or STACKER_STORE",
            ) from error
        return cls(root)


def _damaged(metadata: Path, error: Exception) -> StackerError:
    match error:
        case json.JSONDecodeError():
            fault = f"got malformed JSON at byte {error.pos}, want an object"
        case UnicodeDecodeError():
            fault = f"got bytes that are not UTF-8 at byte {error.start}, want JSON"
        case AttributeError():
            fault = "got another JSON value, want an object"
        case _:
            fault = "got an unknown whiteout format, want trusted or user"
    return StackerError(
        f"damaged store: {metadata}: {fault}",
        hint="restore the file, or name another store with --store",
    )


def _ensure(root: Path, *, create: bool) -> None:
    metadata = root / _METADATA
    try:
        version = json.loads(metadata.read_bytes()).get("version")
    except FileNotFoundError:
        if not create:
            if root.exists():
                _refuse_other_files(root)
            return
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with lock.exclusive(root, create=False):
            if not metadata.exists():  # another process created it meanwhile
                _create(root)
        return
    except (ValueError, AttributeError) as error:
        if not all((root / part).is_dir() for part in _PARTS):
            raise _damaged(metadata, error) from error
        with lock.exclusive(root, create=False):  # a power cut left the file empty
            _write_metadata(root)
        return
    if version != VERSION:
        raise UnsupportedError(
            f"unknown store: {root}: got version {version}, want version {VERSION}",
            hint="update stacker: a newer version created the store",
        )
    status = root.stat()
    if status.st_uid != os.geteuid():
        raise UsageError(
            f"store of another user: {root}: got the owner {status.st_uid}, want {os.geteuid()}",
            hint="name a store of your own with --store: the other user can replace layers",
        )
    if status.st_mode & 0o077:
        root.chmod(0o700)


def _refuse_replaceable(root: Path) -> None:
    """Refuse a store that another user can exchange: mode 0700 protects its content alone."""
    found = safe_path.replaceable_ancestor(root)
    if found is None:
        return
    above, owner = found
    if owner in {0, os.geteuid()}:
        who, fix = "every user", f"chmod o-w {above}, or "
    else:
        who, fix = f"UID {owner}", ""
    raise UsageError(
        f"other users can replace the store: {root}: got {above}, which {who} can write to, want "
        "a directory that only root and you can write to",
        hint=f"{fix}use --store to name a store in a directory that only root and you can write to",
    )


def _refuse_other_files(root: Path) -> None:
    names = {name for name in os.listdir(root) if not is_temporary(name)}
    foreign = names - {"oci-layout", "index.json", "blobs", *_PARTS}
    if foreign or ((root / "oci-layout").exists() and not (root / "layers").exists()):
        raise UsageError(
            f"not a store: {root}: got a directory with other files, want an empty one",
            hint="name an empty or a missing directory with --store",
        )


def _create(root: Path) -> None:
    _refuse_other_files(root)
    root.chmod(0o700)
    sweep_temporaries(root)
    for part in _PARTS:
        (root / part).mkdir(mode=0o700, exist_ok=True)
    _write(root / "oci-layout", {"imageLayoutVersion": "1.0.0"})
    _write_metadata(root)


def _write_metadata(root: Path) -> None:
    from stacker.layer.whiteout_format import WhiteoutFormat

    whiteout_format = WhiteoutFormat.permitted().value
    _write(root / _METADATA, {"version": VERSION, "whiteoutFormat": whiteout_format})


_PARTS = ("blobs", "layers", "chains", "mounts", "staging")


def _write(path: Path, content: dict[str, object]) -> None:
    write_atomically(path, json.dumps(content).encode(), durable=True)
