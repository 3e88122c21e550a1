"""Find out what this machine and the filesystem of a store can do.

A store's directory comes in; an `Info` goes out.  The store need not exist, and nothing in it
changes.  Each question runs in a process of its own with a time limit, so that a mount that hangs
does not hang the caller.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from stacker.layer.paths import FORMS
from stacker.linux import features, mountapi, mountinfo, process
from stacker.linux.probe import SECONDS, Answer, run_probes
from stacker.mount import probes
from stacker.operations.forms import (
    WAYS,
    ChosenForm,
    existing_directory,
    first_that_works,
    form_for,
    form_probes,
    whiteout_format_at,
)
from stacker.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from stacker.layer.paths import Form
    from stacker.linux.process import IdRange

PACKAGES: Final = ("isal", "pyfuse3", "rich", "urllib3", "xattr", "zstandard")
"""The packages that stacker uses, by their names on PyPI; pyfuse3 is optional."""
TOOLS: Final = ("fusermount3", "fuse-overlayfs", "tar2sqfs", "sqfstar")
"""The programs that `export`, and mounts without privileges, can need."""
_COPY: Final = {"copy": "copies"}
_DRIVERS: Final[Mapping[Form, Mapping[str, str]]] = {
    "tree": {"overlay": "overlay mounts", "fuse": "FUSE mounts", **_COPY},
    "erofs": {**WAYS, **_COPY},
}
"""What the driver ``auto`` of a mount tries for layers of each form, by the names of the probes."""


@dataclass(frozen=True, slots=True)
class ChosenDriver:
    """The mount driver that ``auto`` takes, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Info:
    """What this machine and the filesystem of a store can do.

    :param root: the directory of the store.
    :param kernel: its release, such as ``6.12.0``.
    :param machine: the hardware name of uname(2).
    :param processors: those that this process may use.
    :param uid: the effective user ID.
    :param initial_user_namespace: whether this process is in the initial user namespace.
    :param cap_sys_admin: whether it has CAP_SYS_ADMIN in its user namespace.
    :param packages: the version of each of `PACKAGES`; ``None`` for a missing one.
    :param tools: the path of each of `TOOLS`; ``None`` for a missing one.
    :param answers: by the name of the feature.
    :param form: the form of layers that ``auto`` takes.
    :param drivers: the driver that ``auto`` takes, by the form of the layers.
    :param overlay_layers: the most layers that overlayfs stacks.
    :param uids: the ranges of user IDs that this process can use.
    :param gids: the same for group IDs.
    """

    root: Path
    kernel: str
    machine: str
    processors: int
    uid: int
    initial_user_namespace: bool
    cap_sys_admin: bool
    packages: Mapping[str, str | None]
    tools: Mapping[str, str | None]
    answers: Mapping[str, Answer]
    form: ChosenForm
    drivers: Mapping[Form, ChosenDriver]
    overlay_layers: int = mountapi.OVERLAY_MAX_LAYERS
    uids: tuple[IdRange, ...] = ()
    gids: tuple[IdRange, ...] = ()


def machine_info(root: Path, *, seconds: float = SECONDS) -> Info:
    """Return what this machine and the filesystem of a store can do.

    :param root: the directory of the store, whether it exists or not.
    :param seconds: the time limit of all questions together.
    """
    answers = run_probes(_probes(root), seconds=seconds)
    system = os.uname()
    return Info(
        root,
        system.release,
        system.machine,
        process.usable_processors(),
        os.geteuid(),
        process.in_initial_user_namespace(),
        process.has_capability(process.CAP_SYS_ADMIN),
        {name: _version(name) for name in PACKAGES},
        {name: shutil.which(name) for name in TOOLS},
        answers,
        form_for(root, answers),
        {form: _driver(ways, answers) for form, ways in _DRIVERS.items()},
        uids=process.uid_map(),
        gids=process.gid_map(),
    )


def _driver(ways: Mapping[str, str], answers: Mapping[str, Answer]) -> ChosenDriver:
    name, reason = first_that_works(ways, answers)
    driver = name if name in {"fuse", "copy"} else "overlay"  # this driver mounts EROFS, too
    return ChosenDriver(driver, reason)


def _probes(root: Path) -> dict[str, Callable[[], Answer]]:
    """Return a probe for each feature, in the order of the table that `info` prints."""

    def inside(probe: Callable[..., Answer], *words: str) -> Callable[[], Answer]:
        return lambda: probe(existing_directory(root), *words)

    ways = form_probes(root)
    return {
        "store": partial(_store, root),
        "filesystem": inside(_filesystem),
        "whiteouts": partial(_whiteouts, root),
        "overlay": partial(_overlay, root),
        "fuse": ways["fuse"],
        "copy": lambda: Answer(works=True, reason="a copy of all files, for each mount"),
        "erofs": probes.erofs_in_kernel,
        "erofs-files": ways["erofs-files"],
        "erofs-loop": ways["erofs-loop"],
        "user-namespaces": features.user_namespaces,
        "idmapped-mounts": inside(features.idmapped_mounts),
        "o-tmpfile": inside(features.unnamed_files),
        "reflink": inside(features.reflinks),
        "fs-verity": inside(features.fs_verity),
        **{
            f"{namespace}-xattrs": inside(features.xattrs, namespace)
            for namespace in features.XATTR_NAMESPACES
        },
    }


def _store(root: Path) -> Answer:
    store = Store.open(root, create=False)
    if not store.exists:
        return Answer(works=True, reason="missing")
    forms = Counter(form for each in store.layers.all() for form in store.layers.paths(each).forms)
    found = (f"{forms[form]} layers in the form {form}" for form in FORMS)
    return Answer(works=True, reason=", ".join(["exists", *found]))


def _filesystem(directory: Path) -> Answer:
    mount = mountinfo.read().around(directory)
    status = os.statvfs(directory)
    free = f"{status.f_bavail * status.f_frsize / (1 << 30):.1f} GiB available"
    what = f"{mount.fstype} at {mount.mount_point}"
    if status.f_flag & os.ST_RDONLY:
        return Answer(works=False, reason=f"{what}, read-only")
    if not os.access(directory, os.W_OK, effective_ids=True):
        return Answer(works=False, reason=f"{what}, not writable for this user: {directory}")
    return Answer(works=True, reason=f"{what}, {free}")


def _whiteouts(root: Path) -> Answer:
    written = whiteout_format_at(root)
    who = "which only root can read" if written.is_trusted else "which every user can read"
    return Answer(works=True, reason=f"{written.prefix.decode()}* xattrs, {who}")


def _overlay(root: Path) -> Answer:
    directories = tuple(path for path in (root / "layers", root / "blobs") if path.is_dir())
    layers = directories if len(directories) > 1 else ()
    return probes.overlay(existing_directory(root), layers, whiteout_format_at(root))


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
