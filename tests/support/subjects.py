"""The subjects of the conformance suites: `SUBJECTS` has a line for each driver.

`stacker mount` mounts a subject once, from an image that has many copies of each template.  Each
case takes an unused copy.  After the last copy, the subject is mounted again, without its writes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from stacker.layer.paths import Form
from stacker.linux import lock
from tests.support import images, tars
from tests.support.command import Stacker
from tests.support.deviations import (
    DOES_NOT_WRITE,
    FUSE,
    OVERLAYFS,
    OVERLAYFS_ON_EROFS,
    Deviation,
)
from tests.support.templates import (
    CROWD,
    NAMES,
    PROGRAM,
    RANDOM,
    USUAL,
    Template,
    build,
    clear,
    half,
    members,
)

LOWER: Final = "lower"
UPPER: Final = "upper"
MERGED: Final = "merged"
REMADE: Final = "remade"
KINDS: Final = (LOWER, UPPER, MERGED, REMADE)
"""All files in layers; all made in the mount; half in each; or files of a layer made again."""


@dataclass(frozen=True)
class Subject:
    """One way to provide a writable tree.

    :param words: options of `stacker mount`; ``None`` for a plain directory, the control.  A case
        that fails on the control is wrong.
    :param writes: whether it supports ``--rw``; otherwise only the read-only suite runs it.
    :param deviations: how it must differ from the control.
    :param refuses: operations of the random I/O suite that it does not support (ENOSYS,
        EOPNOTSUPP).
    :param device: a device that it requires.
    :param module: a Python module that it requires.
    :param kinds: the kinds that differ for it.
    :param form: the form in which the layers are stored.
    """

    name: str
    words: tuple[str, ...] | None
    writes: bool = True
    deviations: frozenset[Deviation] = frozenset()
    refuses: frozenset[str] = frozenset()
    device: str | None = None
    module: str | None = None
    kinds: tuple[str, ...] = KINDS
    form: Form = "tree"

    def __str__(self) -> str:
        return self.name

    @property
    def is_mount(self) -> bool:
        """Return whether there is a mount to unmount; a copy is a plain directory."""
        return self.words is not None and self.name != "copy"

    @property
    def missing(self) -> str | None:
        """Return the reason why this machine cannot test the subject, or None."""
        if self.device is not None and not os.path.exists(self.device):
            return f"no {self.device}"
        if self.module is not None and find_spec(self.module) is None:
            return f"{self.module} is not installed"
        return None


PLAIN: Final = Subject("plain", None, kinds=(UPPER,))
# For a driver that learns to write, remove `DOES_NOT_WRITE` and add the deviations that its
# documentation states (tests/support/deviations.py).
SUBJECTS: Final = (
    PLAIN,
    Subject("overlay", ("--driver", "overlay"), deviations=OVERLAYFS),
    Subject(
        "overlay of an index",
        ("--driver", "overlay"),
        deviations=OVERLAYFS_ON_EROFS,
        form="erofs",
    ),
    Subject("fuse", ("--driver", "fuse"), deviations=OVERLAYFS, device="/dev/fuse"),
    Subject(
        "fuse of an index",
        ("--driver", "fuse", "--fuse-writer", "server"),
        deviations=FUSE,
        device="/dev/fuse",
        form="erofs",
    ),
    Subject(
        "fuse by pyfuse3",
        ("--driver", "fuse", "--fuse-adapter", "pyfuse3"),
        DOES_NOT_WRITE,
        device="/dev/fuse",
        module="pyfuse3",
    ),
    Subject("copy", ("--driver", "copy"), kinds=(LOWER, MERGED)),
)
WRITING: Final = tuple(subject for subject in SUBJECTS if subject.writes)

TEMPLATES: Final[dict[str, tuple[Template, int]]] = {
    "usual": (USUAL, 150),
    "crowd": (CROWD, 8),
    "names": (NAMES, 6),
    "program": (PROGRAM, 6),
    "random": (RANDOM, 100),
}
"""The number of copies of each template in the image, whole and half."""


@dataclass(frozen=True)
class CaseDirectory:
    """A directory with a template's things, for one case."""

    path: Path
    kind: str
    subject: Subject
    template: Template

    def __truediv__(self, name: str | bytes) -> Path:
        return self.path / os.fsdecode(name)

    def is_lower(self, name: str) -> bool:
        """Return whether only a lower layer has a thing; a directory may be in both."""
        if self.kind == MERGED:
            return any(thing.path == name.encode() for thing in half(self.template))
        return self.kind == LOWER

    def deviates(self, deviation: Deviation, name: str | None = None) -> bool:
        """Return whether the case must expect a deviation.

        :param name: a thing; the deviation applies only if a lower layer has it.
        """
        return deviation in self.subject.deviations and (name is None or self.is_lower(name))


@dataclass
class Mounted:
    """A mounted subject; `case_directory` returns unused directories in it."""

    subject: Subject
    workspace: Path
    lockfile: Path
    _used: dict[str, int] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.workspace / "target"

    @property
    def stacker(self) -> Stacker:
        return Stacker(self.workspace / "store")

    def case_directory(self, kind: str, template: str = "usual") -> CaseDirectory:
        """Return a directory of a kind, with a template's things."""
        things, amount = TEMPLATES[template]
        group = f"{template}-{'half' if kind == MERGED else 'new' if kind == UPPER else 'whole'}"
        number = self._used.get(group, 0)
        if self.subject.words is not None and kind != UPPER and number >= amount:
            self.renew()
            number = 0
        self._used[group] = number + 1
        path = self.root / group / str(number)
        if self.subject.words is None or kind == UPPER:
            path.mkdir(parents=True)
            build(things, path)
        elif kind == REMADE:
            clear(path)
            build(things, path)
        elif kind == MERGED:
            kept = half(things)
            build([thing for thing in things if thing not in kept], path)
        return CaseDirectory(path, kind, self.subject, things)

    def layers(self) -> dict[str, tuple[int, ...]]:
        """Return the state of every file in the store's layers; any change updates a ctime."""
        found: dict[str, tuple[int, ...]] = {}
        layers = self.workspace / "store/layers"
        paths = [
            str(path) for name in ("layer.tar", "*.erofs") for path in layers.glob(f"*/*/{name}")
        ]
        for layer in layers.glob("*/*/diff"):
            for top, directories, files in os.walk(layer):
                paths += (os.path.join(top, name) for name in (".", *directories, *files))
        for path in paths:
            status = os.lstat(path)
            found[path] = (status.st_ctime_ns, status.st_nlink, status.st_size)
        return found

    def renew(self) -> None:
        """Discard all writes: unmount and mount again."""
        self.unmount()
        self.mount()

    def mount(self) -> None:
        self._used.clear()
        if self.subject.words is not None:
            with lock.exclusive(self.lockfile):
                self.stacker("mount", "--rw", *self.subject.words, "app:1.0", self.root)

    def unmount(self) -> None:
        if self.subject.words is not None:
            with lock.exclusive(self.lockfile):
                self.stacker("umount", self.root)


def stocked_layers() -> list[bytes]:
    """Return two layers with many copies of each template; its things alternate between them."""
    layers: tuple[list[bytes], list[bytes]] = ([], [])
    for name, (template, amount) in TEMPLATES.items():
        for group, things in (("whole", template), ("half", half(template))):
            for number in range(amount):
                for turn, layer in enumerate(layers):
                    parent = f"{name}-{group}/{number}".encode()
                    layer.extend(members(_turn(things, turn), parent))
    return [tars.tar(tars.dir("./"), *layer) for layer in layers]


def _turn(things: Template, turn: int) -> Template:
    """Return every second thing; both layers have directories, and a link is with its target."""
    at = {thing.path: number % 2 for number, thing in enumerate(things)}
    return tuple(
        thing
        for thing in things
        if thing.kind == "directory"
        or at[thing.data if thing.kind == "link" else thing.path] == turn
    )


def stock(workspace: Path, form: Form, layers: list[bytes] | None = None) -> None:
    """Pull an image of `stocked_layers`, or of other layers, into a store."""
    layout = images.layout(workspace / "app", layers or stocked_layers(), compression="none")
    Stacker(workspace / "store")("pull", "--form", form, layout.source)
    shutil.rmtree(layout.path)


def unmount_by_force(path: Path) -> None:
    """Unmount a path until it has no mount, after a failure."""
    while subprocess.run(["umount", "-l", path], check=False, capture_output=True).returncode == 0:
        pass
