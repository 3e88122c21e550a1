"""Open or create a store.

    $STORE/stacker.json                 version and whiteout format of the store
    $STORE/oci-layout, index.json       the blob store is an OCI image layout
    $STORE/images.json                  the list of images
    $STORE/blobs/<algorithm>/<hex>
    $STORE/layers/<algorithm>/<hex>/    diff, layer.json, skeleton.tar.zst
    $STORE/chains/<algorithm>/<hex>/    chain.json, and the fixup directories of a stack
    $STORE/indexes/<hex>.json           indexes that `stacker index` created
    $STORE/mounts/<id>/                 belongs to stacker.mount
    $STORE/partial/<name>               partial blobs of interrupted downloads
    $STORE/staging/<name>/              unfinished work, which rename(2) moves into the store

`Store.open` takes a directory and returns a `Store` with one property for each part.  The directory
has mode 0700, so that other users cannot run set-user-ID files of an image.  A store that cannot be
written to has the parts that change (locks, mounts, staging, new chains) in a directory of its own
below a run directory.  This module does not read the parts.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.errors import StackerError, UsageError, shell_word
from stacker.linux import process, safe_path
from stacker.store.metadata import METADATA, damaged, ensure, mend_layout, require_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from stacker.layer.whiteout_format import WhiteoutFormat
    from stacker.store.blobs import BlobStore
    from stacker.store.chains import ChainStore
    from stacker.store.images import ImageStore
    from stacker.store.indexes import IndexStore
    from stacker.store.layers import LayerStore
    from stacker.store.partials import PartialStore
    from stacker.store.staging import Staging

_CHANGING_PARTS = ("layers", "chains", "mounts", "staging")


@dataclass(frozen=True, slots=True)
class Store:
    """The store in the directory ``root``; :meth:`open` returns one.

    Each property imports its module on use, because an unmount needs none and a mount needs few.

    :param run: the directory of the parts that change, if the store is read-only.
    :param additional: roots of other stores, whose layers are used in place.
    """

    root: Path
    run: Path | None = None
    additional: tuple[Path, ...] = ()

    @property
    def is_read_only(self) -> bool:
        """Whether commands change nothing below `root`."""
        return self.run is not None

    @property
    def changing(self) -> Path:
        """The directory with locks, mounts, staging and new chains."""
        return self.run or self.root

    def make_run_directory(self) -> None:
        """Create the directory for locks and mounts of a read-only store, if it is missing.

        :raises StackerError: the directory cannot be created.
        """
        if self.run is None:
            return
        try:
            os.close(safe_path.make_directories(self.run, mode=0o700))
            for part in _CHANGING_PARTS:
                (self.run / part).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StackerError(
                f"cannot use the read-only store: {self.root}: {error.filename}: {error.strerror}",
                hint="name a directory for its locks and mounts with XDG_RUNTIME_DIR",
            ) from error

    def require_writable(self) -> None:
        """Require that the store can be changed.

        :raises UsageError: it is read-only.
        """
        if self.is_read_only:
            raise UsageError(
                f"store is read-only: {self.root}",
                hint="name a writable store with --store; "
                f"`--additional-store {shell_word(self.root)}` uses the layers of this one",
            )

    @property
    def exists(self) -> bool:
        """Whether the store has been created."""
        return (self.root / METADATA).exists()

    @property
    def blobs(self) -> BlobStore:
        """Blobs by digest."""
        from stacker.store.blobs import BlobStore

        return BlobStore(self.root / "blobs")

    @property
    def images(self) -> ImageStore:
        """Images by ID and by name."""
        from stacker.store.images import ImageStore

        return ImageStore(self.root, self.blobs, read_only=self.is_read_only)

    @property
    def indexes(self) -> IndexStore:
        """Indexes by name."""
        from stacker.store.indexes import IndexStore

        return IndexStore(self.root, self.blobs)

    @property
    def layers(self) -> LayerStore:
        """Unpacked layers by diff_id."""
        from stacker.store.layers import LayerStore

        return LayerStore(
            self.root / "layers",
            self.staging,
            self.changing / "layers",
            tuple(other / "layers" for other in self.additional),
        )

    @property
    def chains(self) -> ChainStore:
        """Stacks by chain ID."""
        from stacker.store.chains import ChainStore

        return ChainStore(self.root, self.staging, self.changing, self.additional)

    @property
    def staging(self) -> Staging:
        """Directories for unfinished work."""
        from stacker.store.staging import Staging

        return Staging(self.changing / "staging")

    @property
    def partials(self) -> PartialStore:
        """Partial blobs of interrupted downloads."""
        from stacker.store.partials import PartialStore

        return PartialStore(self.root / "partial")

    @property
    def mounts(self) -> Path:
        """The directory of the mount table."""
        return self.changing / "mounts"

    @property
    def pull_lock(self) -> Path:
        """The file that pulls, mounts and unpacks share, and that `gc` locks alone.

        No image lists the layers of a running pull.  A mount or an unpack that was given the
        digest of a config uses a stack that perhaps no image lists.
        """
        return self.changing / "pull.lock"

    @property
    def whiteout_format(self) -> WhiteoutFormat:
        """The whiteout format for images without layers, recorded when the store was created.

        If an older version created the store, this is the format that this process can write.

        :raises StackerError: the recorded format is unknown.
        """
        from stacker.layer.whiteout_format import WhiteoutFormat

        metadata = self.root / METADATA
        try:
            recorded = json.loads(metadata.read_bytes()).get("whiteoutFormat")
            return WhiteoutFormat(recorded) if recorded else WhiteoutFormat.permitted()
        except ValueError as error:
            raise damaged(metadata, error) from error

    def publish(self) -> None:
        """List the images for other programs in ``index.json``."""
        with self.images.write_lock():
            self.images.publish()

    @classmethod
    def open(
        cls,
        root: Path,
        *,
        create: bool = True,
        run: Path | None = None,
        additional: Iterable[Path] = (),
        report: Callable[[str], object] = lambda _: None,
    ) -> Store:
        """Open a store; create it if the directory is missing or empty.

        :param create: create a missing store; if false, treat it as an empty one.
        :param run: the directory below which a read-only store has its locks and mounts;
            ``None`` for /run/stacker, or /run/user/UID/stacker without root.
        :param additional: other stores, whose layers are used in place.
        :param report: called with a message for each damaged or missing file that is written again.
        :raises UsageError: a directory is not a store, or another user can replace it.
        :raises UnsupportedError: a newer version of stacker created the store.
        :raises StackerError: the directory cannot be created or read.
        """
        try:
            root = safe_path.resolve(root)
            _refuse_replaceable(root)
            changing = None
            if _is_read_only(root):
                _require_store(root)
                changing = _run_directory(run or _default_run(), root)
            else:
                ensure(root, create=create, report=report)
        except OSError as error:
            raise StackerError(
                f"cannot open the store: {root}: {error.strerror}",
                hint="name a writable directory with --store or STACKER_STORE",
            ) from error
        store = cls(root, changing, tuple(map(_additional, additional)))
        if create:
            store.make_run_directory()
        if changing is None and store.exists:
            mend_layout(root, store.publish, report)
        return store


def _is_read_only(root: Path) -> bool:
    """Return whether a directory is a store that this process cannot change."""
    return (root / METADATA).exists() and not os.access(root, os.W_OK)


def _additional(root: Path) -> Path:
    try:
        root = safe_path.resolve(root, strict=True)
        _refuse_replaceable(root)
        _require_store(root)
    except OSError as error:
        raise StackerError(
            f"cannot open the additional store: {root}: {error.strerror}",
            hint="name the directory of a store with --additional-store",
        ) from error
    return root


def _require_store(root: Path) -> None:
    """Require that a directory is a store of root or of the caller, and change nothing.

    :raises UsageError: it is not a store, or another user owns it.
    :raises UnsupportedError: a newer version of stacker created it.
    """
    metadata = root / METADATA
    try:
        require_version(root, json.loads(metadata.read_bytes()).get("version"))
    except FileNotFoundError:
        raise UsageError(
            f"not a store: {root}: {METADATA} is missing", hint="name the directory of a store"
        ) from None
    except (ValueError, AttributeError) as error:
        raise damaged(metadata, error) from error
    owner = root.stat().st_uid
    if not process.is_trusted_owner(owner):
        raise UsageError(
            f"store of another user: {root}: got the owner {owner}, want root or yourself",
            hint="its owner can replace layers",
        )


def _default_run() -> Path:
    user = os.geteuid()
    return Path("/run/stacker" if user == 0 else f"/run/user/{user}/stacker")


def _run_directory(run: Path, root: Path) -> Path:
    """Return the directory of a read-only store below the run directory.

    Two stores with one path, such as two discs on one mount point, have different directories.
    """
    status = root.stat()
    name = f"{root} {status.st_dev} {status.st_ino} {status.st_ctime_ns}"
    return run / hashlib.sha256(os.fsencode(name)).hexdigest()[:16]


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
