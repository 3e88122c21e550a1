"""The store as a whole: one directory, made and recognised here.

    $STORE/stacker.json                 version and whiteout format of the store
    $STORE/oci-layout, index.json       the blob store is an OCI image layout
    $STORE/blobs/<algorithm>/<hex>
    $STORE/layers/<algorithm>/<hex>/    diff, layer.json, skeleton.tar.zst
    $STORE/chains/<algorithm>/<hex>/    chain.json, and what a stack had to repair
    $STORE/mounts/<id>/                 belongs to stacker.mount
    $STORE/partial/<name>               what there is of blobs whose transfer broke off
    $STORE/staging/<name>/              on its way to one of the above by rename(2)

The store is 0700: a set-user-ID file in an image is nobody's way to root.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.errors import StackerError, UnsupportedError, UsageError
from stacker.linux import lock
from stacker.linux.filesystem import write_atomically

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
_MARK = "stacker.json"


@dataclass(frozen=True, slots=True)
class Store:
    """The store at ``root``; :meth:`open` is how to get one.

    Its parts are loaded by whoever uses them: unmounting wants none, mounting a few.
    """

    root: Path

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
        """What is to be stacked, by chain ID."""
        from stacker.store.chains import ChainStore

        return ChainStore(self.root, self.staging)

    @property
    def staging(self) -> Staging:
        """What is on its way."""
        from stacker.store.staging import Staging

        return Staging(self.root / "staging")

    @property
    def partials(self) -> PartialStore:
        """What there is of blobs whose transfer broke off."""
        from stacker.store.partials import PartialStore

        return PartialStore(self.root / "partial")

    @property
    def mounts(self) -> Path:
        """The directory of the mount table."""
        return self.root / "mounts"

    @property
    def whiteout_format(self) -> WhiteoutFormat:
        """The whiteout format of a stack without layers, recorded when the store was made.

        A store made by an older stacker records none; then it is what this process may write.

        :raises StackerError: the recorded format is unknown.
        """
        from stacker.layer.whiteout_format import WhiteoutFormat

        mark = self.root / _MARK
        try:
            recorded = json.loads(mark.read_bytes()).get("whiteoutFormat")
            return WhiteoutFormat(recorded) if recorded else WhiteoutFormat.permitted()
        except ValueError as error:
            raise StackerError(f"damaged store: {mark}: {error}") from error

    @classmethod
    def open(cls, root: Path) -> Store:
        """Open the store at ``root``; make it if there is nothing or an empty directory.

        :raises UsageError: there is something else.
        :raises UnsupportedError: a newer version wrote it.
        :raises StackerError: it cannot be made or read.
        """
        root = Path(os.path.realpath(root))
        try:
            _ensure(root)
        except OSError as error:
            raise StackerError(
                f"cannot open the store: {root}: {error.strerror}",
                hint="name a directory you may write to with --store or STACKER_STORE",
            ) from error
        return cls(root)


def _ensure(root: Path) -> None:
    mark = root / _MARK
    try:
        version = json.loads(mark.read_bytes()).get("version")
    except FileNotFoundError:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with lock.exclusive(root, create=False):
            if not mark.exists():  # somebody else was first
                _make(root)
        return
    except (ValueError, AttributeError) as error:
        raise StackerError(f"damaged store: {mark}: {error}") from error
    if version != VERSION:
        raise UnsupportedError(
            f"unknown store: {root}: got version {version}, want version {VERSION}",
            hint="a newer stacker wrote it",
        )
    if root.stat().st_mode & 0o077:
        root.chmod(0o700)


def _make(root: Path) -> None:
    from stacker.layer.whiteout_format import WhiteoutFormat

    foreign = set(os.listdir(root)) - {"oci-layout", "index.json", "blobs", *_PARTS}
    if foreign or ((root / "oci-layout").exists() and not (root / "layers").exists()):
        raise UsageError(
            f"not a store: {root}: got a directory with other things in it",
            hint="name an empty or missing directory",
        )
    root.chmod(0o700)
    for part in _PARTS:
        (root / part).mkdir(mode=0o700, exist_ok=True)
    _write(root / "oci-layout", {"imageLayoutVersion": "1.0.0"})
    whiteout_format = WhiteoutFormat.permitted().value
    _write(root / _MARK, {"version": VERSION, "whiteoutFormat": whiteout_format})


_PARTS = ("blobs", "layers", "chains", "mounts", "staging")


def _write(path: Path, content: dict[str, object]) -> None:
    write_atomically(path, json.dumps(content).encode())
