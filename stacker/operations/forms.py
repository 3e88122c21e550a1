"""Choose the form in which a store keeps new layers.

A store's directory comes in; a form goes out, with the reason.  `auto` takes the EROFS form if the
kernel can mount it here, or if FUSE can serve it.  Probes decide this, and leave nothing behind.
In a filesystem in memory, it takes trees: the kernel mounts no files of a tmpfs, a loop device
costs more for each read, and files are cheap there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from stacker.layer.paths import FORMS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from stacker.layer.paths import Form
    from stacker.layer.whiteout_format import WhiteoutFormat
    from stacker.linux.probe import Answer

OPTIONS: Final = ("auto", *FORMS)
"""The values of an option that chooses a form."""
WAYS: Final = {
    "erofs-files": "EROFS mounts from files",
    "erofs-loop": "EROFS mounts through loop devices",
    "fuse": "FUSE mounts",
}
"""The ways to mount layers in EROFS form, the best first, by the names of their probes."""

_IN_MEMORY: Final = ("tmpfs", "ramfs")


@dataclass(frozen=True, slots=True)
class ChosenForm:
    """A form for new layers, and why `auto` takes it."""

    form: Form
    reason: str


def automatic_form(root: Path) -> ChosenForm:
    """Return the form that `auto` takes in a store, whether the store exists or not.

    :param root: the directory of the store.
    """
    from stacker.linux.probe import run_probes

    return form_for(root, run_probes(form_probes(root)))


def form_for(root: Path, answers: Mapping[str, Answer]) -> ChosenForm:
    """Return the form that `auto` takes.

    :param root: the directory of the store, whether it exists or not.
    :param answers: by name, those of `form_probes`; others are ignored.
    """
    name, reason = first_that_works(WAYS, answers)
    if name == "erofs-loop" and (fstype := _filesystem(root)) in _IN_MEMORY:
        return ChosenForm("tree", f"the store is in memory ({fstype}), where files cost little")
    if name is not None:
        return ChosenForm("erofs", reason)
    return ChosenForm("tree", f"layers in the form erofs could not be mounted: {reason}")


def first_that_works(
    ways: Mapping[str, str], answers: Mapping[str, Answer]
) -> tuple[str | None, str]:
    """Return the first probe whose answer is yes, and why.

    :param ways: what each probe tries, in the plural, by the probe's name; the best first.
    :param answers: by name.
    :returns: ``None`` for the probe if no answer is yes, and the reasons of all.
    """
    failed: list[str] = []
    for name, way in ways.items():
        if answers[name].works:
            return name, "; ".join([f"{way} work", *failed])
        failed.append(f"{way} do not ({answers[name].reason})")
    return None, "; ".join(failed)


def form_probes(root: Path) -> dict[str, Callable[[], Answer]]:
    """Return a probe for each of `WAYS`, in the filesystem of a store."""
    return {
        "erofs-files": partial(_erofs_from_files, root),
        "erofs-loop": partial(_erofs_from_loop_devices, root),
        "fuse": partial(_fuse, root),
    }


def _erofs_from_files(root: Path) -> Answer:
    from stacker.mount.probes import erofs_from_files

    return erofs_from_files(existing_directory(root))


def _erofs_from_loop_devices(root: Path) -> Answer:
    from stacker.mount.probes import erofs_from_loop_devices

    return erofs_from_loop_devices(existing_directory(root))


def _fuse(root: Path) -> Answer:
    from stacker.mount.probes import fuse

    return fuse(existing_directory(root), whiteout_format_at(root))


def _filesystem(root: Path) -> str:
    from stacker.linux import mountinfo

    return mountinfo.read().around(existing_directory(root)).fstype


def existing_directory(root: Path) -> Path:
    """Return the directory of a store, or the directory above it that exists.

    :raises OSError: this process may not search a directory above it.
    """
    from stacker.linux import safe_path

    path = safe_path.resolve(root)
    while not path.is_dir():
        path = path.parent
    return path


def whiteout_format_at(root: Path) -> WhiteoutFormat:
    """Return the whiteout format of a store, or that of a new one.

    :raises StackerError: the directory is not a store that this process can use.
    """
    from stacker.layer.whiteout_format import WhiteoutFormat
    from stacker.store.store import Store

    store = Store.open(root, create=False)
    return store.whiteout_format if store.exists else WhiteoutFormat.permitted()
