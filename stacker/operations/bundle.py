"""Write an OCI runtime bundle for an image of the store, and remove it.

A store, an image's name and the changes of a caller come in; a directory with ``config.json`` and
a mounted ``rootfs`` goes out.  ``config.json`` is written last, so a bundle without it is the
leftover of a killed process, which the next call clears.  This module starts no runtime.

Source: runtime-spec bundle.md ("Filesystem Bundle").
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stacker.errors import LockedError, MountError, NotFoundError, UsageError, shell_word
from stacker.linux import lock, mountinfo, safe_path
from stacker.linux.filesystem import is_temporary, sweep_temporaries, write_atomically
from stacker.linux.mountapi import FileDescriptor
from stacker.mount.attach import attach
from stacker.mount.detach import detach
from stacker.mount.drivers.runtime import NAME as RUNTIME
from stacker.mount.drivers.runtime import open_tree, runtime_options
from stacker.mount.plan import MountRequest
from stacker.mount.table import Table
from stacker.mount.target import refuse_overlap
from stacker.operations.mount import mount_flags, stacked_image
from stacker.runtime.mounts import Mount
from stacker.runtime.process import Overrides, make_process
from stacker.runtime.root import Root
from stacker.runtime.seccomp import read_profile
from stacker.runtime.spec import ROOT, Settings, omitted_labels, runtime_config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stacker.image.config import ImageConfig
    from stacker.mount.drivers.protocol import Mounted
    from stacker.mount.plan import Plan
    from stacker.mount.record import MountRecord
    from stacker.operations.durability import Restore
    from stacker.store.store import Store

CONFIG: Final = "config.json"
_IMAGE: Final = "stacker.image"
"""The annotation that names the image, and marks a bundle of this program."""
_OTHERS_WRITE = 0o022


@dataclass(frozen=True, slots=True)
class BundleRequest:
    """What a caller wants in a bundle.

    :param overrides: the changes of the image's process.
    :param settings: of the container; an empty host name is the short image ID.
    :param driver: the mount driver, ``auto``, or ``runtime`` if the OCI runtime makes the mount
        that ``config.json`` describes.
    :param upper: a directory that keeps the writes; ``None`` to discard them at unmount.
    """

    overrides: Overrides = field(default_factory=Overrides)
    settings: Settings = field(default_factory=Settings)
    driver: str = "auto"
    upper: Path | None = None


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that an OCI runtime can run.

    :param path: its directory, absolute.
    :param record: the mount of its root filesystem.
    :param mounted: the driver that made the mount.
    :param omitted_labels: labels that are not annotations, because runtimes would obey them.
    """

    path: Path
    record: MountRecord
    mounted: Mounted
    omitted_labels: tuple[str, ...] = ()


def write_bundle(
    store: Store,
    name: str,
    directory: Path,
    request: BundleRequest,
    *,
    restore: Restore | None = None,
) -> Bundle:
    """Mount an image at ``rootfs`` of a directory, and write ``config.json`` beside it.

    The mount is writable, since a runtime creates missing mount points in it.  With the driver
    ``runtime``, nothing is mounted; the store keeps the layers, and a directory for the writes,
    until `remove_bundle`.

    :param name: an image ID, a unique prefix of one, or a name.
    :param directory: missing, empty or the leftover of a killed process; outside of the store.
    :param restore: unpacks missing layers, and layers that a power cut damaged.
    :raises UsageError: the directory has files, or an override is malformed.
    :raises NotFoundError: the store lacks the image, or the image lacks the user.
    :raises IntegrityError: the root filesystem or the config is unsafe for a runtime.
    :raises MountError: every driver fails, or another user can write to the directory.
    """
    path = safe_path.resolve(directory)
    refuse_overlap("bundle", path, "the store", store.root)
    is_new = _make_directory(path)
    with _locked(path):
        _require_free(path)
        _clear(store, path)
        try:
            (path / ROOT).mkdir(mode=0o755)
            return _write(store, name, path, request, restore)
        except BaseException:
            _clear(store, path)
            if is_new:
                with suppress(OSError):
                    path.rmdir()
            raise


def remove_bundle(store: Store, directory: Path, *, lazy: bool = False) -> Path:
    """Unmount the root filesystem of a bundle, and remove the bundle.

    The directory stays if it has other files.

    :param lazy: detach the mount even while processes use it.
    :returns: the absolute path of the directory.
    :raises NotFoundError: the directory is not a bundle of this program.
    :raises MountError: the mount is in use, or belongs to another store.
    """
    path = safe_path.resolve(directory)
    if not _is_bundle(path):
        raise NotFoundError(
            f"no such bundle: {directory}: got no {CONFIG} that stacker has written, want one"
        )
    with _locked(path):
        _clear(store, path, lazy=lazy)
        with suppress(OSError):  # it has files of the caller
            path.rmdir()
    return path


def _write(
    store: Store, name: str, path: Path, request: BundleRequest, restore: Restore | None
) -> Bundle:
    mount = MountRequest(
        target=path / ROOT,
        driver=request.driver,
        read_only=False,
        upper=request.upper,
        flags=mount_flags(["nodev"]),  # a device node of an image gives access to the host
    )
    with stacked_image(store, name, restore) as image:
        config = store.images.config(store.images.find(image.id))
        record, mounted = attach(Table(store.mounts), mount, image, forbidden=store.root)
        settings = _completed(request.settings, record)
        if record.driver == RUNTIME:
            plan = mount.plan(image, record.id, store.mounts / record.id)
            raw = _planned_config(config, plan, replace(request, settings=settings))
        else:
            with Root.open(path / ROOT) as root:
                raw = _config(config, root, replace(request, settings=settings))
    write_atomically(path / CONFIG, raw, durable=True)
    return Bundle(path, record, mounted, omitted_labels(config))


def _completed(settings: Settings, record: MountRecord) -> Settings:
    short = record.image.removeprefix("sha256:")[:12]
    return replace(
        settings,
        hostname=settings.hostname or short,
        annotations={**settings.annotations, _IMAGE: record.image},
    )


def _planned_config(config: ImageConfig, plan: Plan, request: BundleRequest) -> bytes:
    """Return the config of a bundle whose runtime mounts the root filesystem."""
    overlay = Mount("/", "overlay", plan.source, tuple(runtime_options(plan)))
    settings = replace(request.settings, root_mounts=(overlay,))
    try:
        tree = open_tree(plan)
    except OSError as error:
        raise MountError(f"cannot mount an overlay: {plan.target}: {error.strerror}") from error
    with FileDescriptor(tree):
        return _config(config, Root(tree), replace(request, settings=settings))


def _config(config: ImageConfig, root: Root, request: BundleRequest) -> bytes:
    root.require_mount_points()
    process = make_process(config.execution, request.overrides, root)
    return runtime_config(config, process, request.settings, read_profile())


def _make_directory(path: Path) -> bool:
    """Create a bundle's directory; return whether it was missing."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        status = path.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise UsageError(f"bundle is not a directory: {path}") from None
        if status.st_uid != os.geteuid() or status.st_mode & _OTHERS_WRITE:
            raise MountError(
                f"unsafe bundle directory: {path}: another user owns it or can write to it",
                hint="choose a missing directory, which stacker creates for this user alone",
            ) from None
        return False
    except FileNotFoundError:
        raise UsageError(
            f"bundle has no parent directory: {path}", hint=f"mkdir -p {shell_word(path.parent)}"
        ) from None
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    held = lock.try_exclusive(path, create=False)
    if held is None:
        raise LockedError(f"bundle is in use: {path}: another process writes it", hint="try again")
    with held:
        yield


def _require_free(path: Path) -> None:
    """Require that a directory has no file, or only those of a killed process."""
    if (path / CONFIG).exists():
        raise UsageError(
            f"bundle exists: {path}: got a directory with {CONFIG}, want an empty one",
            hint=f"stacker bundle rm {shell_word(path)}",
        )
    if other := _other_files(path):
        raise UsageError(
            f"bundle has other files: {path}: got {other[0]!r}, want an empty directory",
            hint="choose another directory",
        )


def _clear(store: Store, path: Path, *, lazy: bool = False) -> None:
    """Unmount the root filesystem, and remove what stacker has written, in this order.

    A process that is killed meanwhile leaves a directory that `remove_bundle` accepts.
    """
    root = path / ROOT
    with suppress(NotFoundError):
        detach(Table(store.mounts), root, lazy=lazy)
    if mountinfo.at(root) is not None:
        raise MountError(
            f"cannot unmount: {root}: got a mount that this store does not list",
            hint=f"umount {shell_word(root)}, or name its store with --store",
        )
    (path / CONFIG).unlink(missing_ok=True)
    sweep_temporaries(path, CONFIG)
    with suppress(FileNotFoundError):
        root.rmdir()


def _other_files(path: Path) -> list[str]:
    """Return the names in a bundle's directory that stacker has not written."""
    return sorted(name for name in os.listdir(path) if name != ROOT and not is_temporary(name))


def _is_bundle(path: Path) -> bool:
    """Return whether a directory is a bundle of this program, or the leftover of one."""
    try:
        document = json.loads((path / CONFIG).read_bytes())
    except FileNotFoundError:
        return (path / ROOT).is_dir() and not _other_files(path)
    except (ValueError, OSError):
        return False
    annotations = document.get("annotations") if isinstance(document, dict) else None
    return isinstance(annotations, dict) and _IMAGE in annotations
