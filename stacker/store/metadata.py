"""The files that make a directory a store, and an OCI image layout.

    $STORE/stacker.json   version and whiteout format of the store
    $STORE/oci-layout     the version of the image layout (image-spec image-layout.md)
    $STORE/index.json     the images for other programs

A directory comes in.  `ensure` creates a store in it, or requires that it is one.  If one of these
files is damaged or missing, this module writes it again.  It does not read images.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from stacker.errors import StackerError, UnsupportedError, UsageError
from stacker.linux import lock
from stacker.linux.filesystem import is_temporary, sweep_temporaries, write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VERSION = 1
METADATA = "stacker.json"
PARTS = ("blobs", "layers", "chains", "mounts", "staging")
_LAYOUT = "oci-layout"
_INDEX = "index.json"
_LIST = "images.json"


def ensure(root: Path, *, create: bool, report: Callable[[str], object]) -> None:
    """Require that a directory is a store of the caller.

    :param create: create a store in a missing or empty directory.
    :param report: called with a message if ``stacker.json`` is written again.
    :raises UsageError: it has other files, or another user owns it.
    :raises UnsupportedError: a newer version of stacker created it.
    """
    metadata = root / METADATA
    try:
        version = json.loads(metadata.read_bytes()).get("version")
    except FileNotFoundError:
        if (root / _LIST).exists() and _has_parts(root):
            _write_again(root, f"missing: {metadata}", report)
            return
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
        if not _has_parts(root):
            raise damaged(metadata, error) from error
        _write_again(root, f"damaged: {metadata}", report)  # by a power cut
        return
    require_version(root, version)
    status = root.stat()
    if status.st_uid != os.geteuid():
        raise UsageError(
            f"store of another user: {root}: got the owner {status.st_uid}, want {os.geteuid()}",
            hint="name a store of your own with --store: the other user can replace layers",
        )
    if status.st_mode & 0o077:
        root.chmod(0o700)


def mend_layout(root: Path, publish: Callable[[], None], report: Callable[[str], object]) -> None:
    """Write ``oci-layout`` and ``index.json`` again if they are damaged or missing.

    :param publish: writes ``index.json``.
    :param report: called with a message for each file.
    """
    if fault := _fault(root / _LAYOUT, "imageLayoutVersion"):
        _write_layout(root)
        report(f"{fault}: stacker wrote it again")
    # A store without a list of images has none, or lists them in index.json (older versions).
    if (root / _LIST).exists() and (fault := _fault(root / _INDEX, "manifests")):
        publish()
        report(f"{fault}: stacker wrote it again")


def _fault(path: Path, member: str) -> str | None:
    """Return why a file is not a JSON object with a member; ``None`` if it is one."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return f"missing: {path}"
    except (ValueError, RecursionError):
        content = None
    return None if isinstance(content, dict) and member in content else f"damaged: {path}"


def _has_parts(root: Path) -> bool:
    return all((root / part).is_dir() for part in PARTS)


def _write_again(root: Path, fault: str, report: Callable[[str], object]) -> None:
    with lock.exclusive(root, create=False):
        _write_metadata(root)
    report(f"{fault}: stacker wrote it again")


def damaged(metadata: Path, error: Exception) -> StackerError:
    """Return the error for a damaged ``stacker.json``."""
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


def require_version(root: Path, version: object) -> None:
    """Require that this version of stacker can use a store.

    :raises UnsupportedError: a newer version of stacker created it.
    """
    if version != VERSION:
        raise UnsupportedError(
            f"unknown store: {root}: got version {version}, want version {VERSION}",
            hint="update stacker: a newer version created the store",
        )


def _refuse_other_files(root: Path) -> None:
    names = {name for name in os.listdir(root) if not is_temporary(name)}
    foreign = names - {_LAYOUT, _INDEX, _LIST, "blobs", *PARTS}
    if foreign or ((root / _LAYOUT).exists() and not (root / "layers").exists()):
        raise UsageError(
            f"not a store: {root}: got a directory with other files, want an empty one",
            hint="name an empty or a missing directory with --store",
        )


def _create(root: Path) -> None:
    _refuse_other_files(root)
    root.chmod(0o700)
    sweep_temporaries(root)
    for part in PARTS:
        (root / part).mkdir(mode=0o700, exist_ok=True)
    _write_layout(root)
    _write_metadata(root)


def _write_layout(root: Path) -> None:
    _write(root / _LAYOUT, {"imageLayoutVersion": "1.0.0"})


def _write_metadata(root: Path) -> None:
    from stacker.layer.whiteout_format import WhiteoutFormat

    whiteout_format = WhiteoutFormat.permitted().value
    _write(root / METADATA, {"version": VERSION, "whiteoutFormat": whiteout_format})


def _write(path: Path, content: dict[str, object]) -> None:
    write_atomically(path, json.dumps(content).encode(), durable=True)
