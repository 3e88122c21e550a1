"""Chains: stored stacks, each named by its chain ID (docs/explanation/architecture.md, Terms).

`ChainStore` records a `Stack` and returns it.  Its directories are layers of the store, or fixup
directories next to the record; a merged index is next to the record.  An existing chain is
complete, because a rename gives it its name.  This module does not compute stacks; `stacker.stack`
does.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stacker.errors import IntegrityError, NotFoundError, UnsupportedError, json_fault
from stacker.image.digest import ChainID
from stacker.layer.paths import MergedIndex, Stack
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import lock
from stacker.linux.filesystem import FileIdentity, exchange
from stacker.store.disk_mark import DiskMark
from stacker.store.staging import Staging

VERSION = 1
_RECORD = "chain.json"
_REPLACED = ".replaced-"


@dataclass(frozen=True, slots=True)
class ChainStore:
    """The directory ``chains/`` of the store at ``root``.

    :param changing: the directory below which new chains are; `root`, unless it is read-only.
    :param additional: roots of the additional stores, which can have layers of a chain.
    """

    root: Path
    staging: Staging
    changing: Path
    additional: tuple[Path, ...] = ()

    @property
    def directory(self) -> Path:
        """The directory of all chains that can change."""
        return self.changing / "chains"

    def path(self, chain_id: ChainID) -> Path:
        """Return the path of a chain, whether or not it exists."""
        path = self._new_path(chain_id)
        if self.changing != self.root and not path.exists():
            kept = self.root / "chains" / chain_id.algorithm / chain_id.hex
            if _is_portable(kept):
                return kept
        return path

    def read(self, chain_id: ChainID) -> Stack:
        """Return the stack of a chain.

        :raises NotFoundError: the chain is not in the store.
        :raises IntegrityError: its record is damaged.
        :raises UnsupportedError: a newer version of stacker wrote its record.
        """
        path = self.path(chain_id) / _RECORD
        try:
            data = json.loads(path.read_bytes())
            if data["version"] != VERSION:
                raise UnsupportedError(
                    f"unknown chain record: {path}: got version {data['version']}, "
                    f"want version {VERSION}",
                    hint="update stacker: a newer version wrote it",
                )
            return self._stack(data)
        except FileNotFoundError:
            raise NotFoundError(
                f"no such chain in the store: {chain_id}",
                hint="pull the image again with `stacker pull`",
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(
                f"damaged chain record: {path}: got {json_fault(error)}, want a chain record",
                hint="rebuild the chain with `stacker repair --all`",
            ) from error

    def _stack(self, data: dict[str, Any]) -> Stack:
        merged = data.get("merged")
        return Stack(
            tuple(map(self._found, data["directories"])),
            WhiteoutFormat(data["whiteoutFormat"]),
            data["plain"],
            merged
            and MergedIndex(self._found(merged["index"]), tuple(map(self._found, merged["tars"]))),
        )

    def _found(self, name: str) -> Path:
        """Return the path of a part of a chain, in the first store that has it."""
        roots = self._roots
        if len(roots) == 1:
            return self.root / name
        paths = [root / name for root in roots]
        return next((path for path in paths if path.exists()), paths[0])

    @property
    def _roots(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys((self.changing, self.root, *self.additional)))

    def index_checksum(self, chain_id: ChainID) -> Path:
        """Return the path of the checksum of a chain's index, which `verify` writes."""
        return self.path(chain_id) / "index.sha256"

    @contextmanager
    def reading(self, chain_id: ChainID) -> Iterator[Stack | None]:
        """Yield a stack, and lock its chain, so that no process exchanges it for another.

        Yields ``None`` if a power cut, or a repair in progress, can have damaged the chain.

        :raises IntegrityError: its record is damaged.
        """
        with lock.shared(self.path(chain_id), create=False):
            yield self.read(chain_id) if self.is_certain(chain_id) else None

    @contextmanager
    def building(self, chain_id: ChainID) -> Iterator[Path]:
        """Lock a chain, and yield an empty directory to build it in."""
        with self.staging.locked(_lock_name(chain_id)) as path:
            path.mkdir(mode=0o700)
            yield path

    def mark(self, chain_id: ChainID) -> DiskMark:
        """Return the mark that tells whether a chain is on disk."""
        return DiskMark(self.path(chain_id))

    def is_certain(self, chain_id: ChainID) -> bool:
        """Return whether the store has a chain, and no power cut can have damaged it."""
        return self.mark(chain_id).is_certain

    @contextmanager
    def invalidated(self, chain_ids: Iterable[ChainID]) -> Iterator[None]:
        """Lock chains while their layers are replaced; each is built again at its next use.

        The fixup directories of a chain are hard links to files of its layers.
        """
        with ExitStack() as held:
            for chain_id in sorted(set(chain_ids), key=str):
                held.enter_context(self.staging.locked(_lock_name(chain_id)))
                self.mark(chain_id).remove()
            yield

    def _new_path(self, chain_id: ChainID) -> Path:
        return self.directory / chain_id.algorithm / chain_id.hex

    def all(self) -> Iterator[ChainID]:
        """Yield the ID of every chain in the store."""
        for path in self.directory.glob("*/*"):
            if path.is_dir() and _REPLACED not in path.name:
                yield ChainID(path.parent.name, path.name)

    def mark_durable(self, chain_id: ChainID, flushed: FileIdentity) -> None:
        """Record that a chain is on disk, unless it was removed, invalidated or built again.

        :param flushed: the identity of its `mark` before the flush.
        """
        with self.staging.locked(_lock_name(chain_id)):
            mark = self.mark(chain_id)
            if mark.is_certain:
                mark.mark_durable(flushed)

    def replaced(self) -> dict[Path, ChainID]:
        """Return the directories of chains that were built again, with the IDs of the chains."""
        paths = self.directory.glob(f"*/*{_REPLACED}*")
        return {path: ChainID(path.parent.name, path.name.partition(".")[0]) for path in paths}

    def commit(
        self, chain_id: ChainID, directory: Path, stack: Stack, *, sync: bool = False
    ) -> None:
        """Record a stack, and rename its directory to the name of the chain.

        :param directory: the result of :meth:`building`, with the fixup directories of the stack.
        :param sync: flush the filesystem to disk before the rename.
        """
        final = self._new_path(chain_id)

        def text(path: Path) -> str:
            if path.is_relative_to(directory):
                path = final / path.relative_to(directory)
            root = next(root for root in self._roots if path.is_relative_to(root))
            return str(path.relative_to(root))

        record: dict[str, object] = {
            "version": VERSION,
            "directories": [text(path) for path in stack.directories],
            "whiteoutFormat": stack.whiteout_format.value,
            "plain": stack.plain,
        }
        if merged := stack.merged:
            tars = [text(tar) for tar in merged.tars]
            record["merged"] = {"index": text(merged.path), "tars": tars}
        (directory / _RECORD).write_text(json.dumps(record))
        DiskMark(directory).write(sync=sync)
        final.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            directory.rename(final)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            with lock.exclusive(final, create=False):  # wait for `reading`
                exchange(directory, final)
            # A mount may use the old one, if a repair invalidated it; `gc` removes it.
            directory.rename(final.with_name(f"{final.name}{_REPLACED}{os.urandom(4).hex()}"))


def _lock_name(chain_id: ChainID) -> str:
    return f"chain-{chain_id.algorithm}-{chain_id.hex}"


def _is_portable(chain: Path) -> bool:
    """Return whether a read-only store can use a chain as it is.

    Fixup directories can have hard links to files of layers.  On another filesystem, `verify` would
    build copies instead and find differences, so stacker builds such a chain again.
    """
    try:
        directories = json.loads((chain / _RECORD).read_bytes())["directories"]
        fixups = any(name.startswith("chains/") for name in directories)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return DiskMark(chain).is_certain and not fixups
