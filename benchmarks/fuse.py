"""Measure mounted trees: stacker's FUSE server, fuse-overlayfs, the kernel's overlay.

In: the corpora ``app`` (90 thousand files in two layers), ``debian`` (9 thousand in one) and
``large`` (one file), in a store of stacker's for each form of layers.  Out: for each contender and
action its :class:`Usage`.  *Cold* is the first action after the mount, before the kernel caches an
entry.  The files of the layers are in the page cache.  Writes go to an upper directory on each
medium.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from benchmarks import corpora, figures
from benchmarks.figures import Figures
from benchmarks.layout import TAG, Image
from benchmarks.peers import ROOT, environment, stacker_command
from benchmarks.process import Usage, measured
from benchmarks.scratch import Medium

_PATIENCE = 10
"""Seconds to wait for the end of a server."""
_SMALL_FILES = {"small": 500, "full": 10_000}
Runs = dict[tuple[str, str], list[Usage]]


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount to make.

    ``layers`` are directories, topmost first; ``upper`` takes writes, if given.
    """

    store: Path
    image: str
    layers: tuple[Path, ...]
    target: Path
    upper: Path | None = None


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to mount a tree: its mount and unmount commands.

    ``can_read`` is false if another contender mounts the same without writes; ``form`` is that of
    the layers in the store.
    """

    name: str
    mount: Callable[[Mount], tuple[str, ...]]
    umount: Callable[[Mount], tuple[str, ...]]
    is_here: Callable[[], bool] = lambda: True
    can_write: bool = True
    can_read: bool = True
    form: str = "tree"


def _stacker(*options: str) -> Callable[[Mount], tuple[str, ...]]:
    def command(mount: Mount) -> tuple[str, ...]:
        rw = ("--upper", str(mount.upper / "upper")) if mount.upper else ()
        return stacker_command(
            mount.store, "--quiet", "mount", *options, *rw, mount.image, str(mount.target)
        )

    return command


def _stacker_umount(mount: Mount) -> tuple[str, ...]:
    return stacker_command(mount.store, "umount", str(mount.target))


def _fuse_overlayfs(mount: Mount) -> tuple[str, ...]:
    options = "lowerdir=" + ":".join(map(str, mount.layers))
    if mount.upper:
        options += f",upperdir={mount.upper / 'upper'},workdir={mount.upper / 'work'}"
    return ("fuse-overlayfs", "-o", options, str(mount.target))


def _fusermount(mount: Mount) -> tuple[str, ...]:
    return ("fusermount3", "-u", str(mount.target))


SERVER, OWN_EROFS = "stacker fuse (server)", "stacker fuse (erofs)"
CONTENDERS = (
    Contender("overlay", _stacker("--driver", "overlay"), _stacker_umount),
    Contender("stacker fuse", _stacker("--driver", "fuse"), _stacker_umount),
    Contender(
        SERVER,
        _stacker("--driver", "fuse", "--fuse-writer", "server"),
        _stacker_umount,
        can_read=False,
    ),
    Contender(OWN_EROFS, _stacker("--driver", "fuse"), _stacker_umount, form="erofs"),
    Contender("overlay (erofs)", _stacker("--driver", "overlay"), _stacker_umount, form="erofs"),
    Contender(
        "stacker pyfuse3",
        _stacker("--driver", "fuse", "--fuse-adapter", "pyfuse3"),
        _stacker_umount,
        lambda: find_spec("pyfuse3") is not None,
        can_write=False,
    ),
    Contender(
        "fuse-overlayfs",
        _fuse_overlayfs,
        _fusermount,
        lambda: shutil.which("fuse-overlayfs") is not None,
    ),
)

MOUNT, FEWER = "mount", "mount of debian"
LOOKING = (
    ("find, cold", "find {} -printf '%s\\n'"),
    ("find, again", "find {} -printf '%s\\n'"),
)
READING = (("tar, cold", "tar -cf - -C {} . | cat"), ("tar, again", "tar -cf - -C {} . | cat"))
LARGE = (("read large, cold", "cat {}/large"), ("read large, again", "cat {}/large"))
PARALLEL = (
    ("read in parallel, cold", "cd {} && find . -type f -print0 | xargs -0 -n 200 -P 4 cat"),
)
_GIT = "git -c safe.directory='*' -C {0}/small"
WRITING = (
    ("write small files", "tar -xf {source}/small.tar -C {}"),
    ("git add", f"git init -q {{0}}/small && {_GIT} add -A"),
    ("git status", f"{_GIT} status --short"),
    ("write large file", "dd if={source}/large of={}/written bs=1M status=none"),
)
KINDS = ("reading", "writing")
"""The kinds of actions."""
ON = {"ext4": "ext4 in memory", "disk": "real disk"}
"""What follows the name of an action whose upper directory is on another medium than tmpfs."""


def compared(
    cache: Path,
    media: Sequence[Medium],
    *,
    size: str,
    repetitions: int,
    chosen: Sequence[str] = (),
    kinds: Sequence[str] = KINDS,
) -> Iterator[Figures]:
    """Return a line of results for each contender and action.

    :param media: where the store is, and other places for upper directories.
    """
    contenders = [c for c in CONTENDERS if c.is_here() and (not chosen or c.name in chosen)]
    names = ("app", "debian", "large")
    images = {name: corpora.image(name, "zstd", size=size, cache=cache) for name in names}
    entries = {FEWER: images["debian"].entries}
    runs: Runs = {}
    with media[0].empty_directory() as scratch:
        environ = environment(scratch)
        stored = {
            form: {name: _pulled(image, form, environ, scratch) for name, image in images.items()}
            for form in dict.fromkeys(("tree", *(each.form for each in contenders)))
        }
        _prepare_sources(scratch, stored["tree"]["large"], _SMALL_FILES[size])
        for turn in range(repetitions):
            first = turn % len(contenders)
            for contender in [*contenders[first:], *contenders[:first]]:
                done, trees = list[tuple[str, Usage]](), stored[contender.form]
                if "reading" in kinds and contender.can_read:
                    done += _reading_round(contender, trees, scratch, environ)
                if "writing" in kinds and contender.can_write:
                    for medium in media:
                        done += _writing_round(contender, trees["app"], medium, scratch, environ)
                for name, usage in done:
                    runs.setdefault((contender.name, name), []).append(usage)
    for (contender_name, action), usages in runs.items():
        count = entries.get(action, images["app"].entries)
        line = {"contender": contender_name, "action": action, "entries": count}
        yield {**line, **figures.figures(usages)}


def _reading_round(
    contender: Contender, trees: dict[str, Mount], scratch: Path, environ: dict[str, str]
) -> Iterator[tuple[str, Usage]]:
    """Return the usage of one round; memory is that of the servers at its end."""
    app = trees["app"]
    plan = [
        (MOUNT, app, LOOKING),
        ("", app, READING),
        ("", app, PARALLEL),
        (FEWER, trees["debian"], ()),
        ("", trees["large"], LARGE),
    ]
    for label, mount, actions in plan:
        with _mounted(contender, mount, environ) as usage:
            if label:
                yield label, usage
            yield from _done(actions, mount, scratch, environ)


def _writing_round(
    contender: Contender, mount: Mount, medium: Medium, scratch: Path, environ: dict[str, str]
) -> Iterator[tuple[str, Usage]]:
    """Return the usage of the writes to a new upper directory on a medium."""
    where = f", {ON[medium.name]}" if medium.name in ON else ""
    with medium.empty_directory() as upper:
        for name in ("upper", "work"):
            (upper / name).mkdir()
        if medium.is_disk:
            os.sync()
        writable = replace(mount, upper=upper)
        with _mounted(contender, writable, environ):
            for name, usage in _done(WRITING, writable, scratch, environ):
                yield name + where, usage


def _done(
    actions: Sequence[tuple[str, str]], mount: Mount, scratch: Path, environ: dict[str, str]
) -> Iterator[tuple[str, Usage]]:
    for name, script in actions:
        if script.startswith("git") and shutil.which("git") is None:
            continue
        command = script.format(mount.target, source=scratch)
        servers = _servers(mount)
        usage = measured(("sh", "-c", command), environment=environ, daemons=servers, cwd=ROOT)
        yield name, Usage(usage.wall, usage.cpu, sum(map(_proportional, servers)))


@contextmanager
def _mounted(contender: Contender, mount: Mount, environ: dict[str, str]) -> Iterator[Usage]:
    usage = measured(contender.mount(mount), environment=environ, cwd=ROOT)
    try:
        yield Usage(usage.wall, usage.cpu, sum(map(_proportional, _servers(mount))))
    finally:
        servers = _servers(mount)
        subprocess.run(
            contender.umount(mount), env=environ, cwd=ROOT, check=True, capture_output=True
        )
        # fuse-overlayfs has the upper directory open until it exits, after fusermount3 has.  A
        # server continues as long as another mount namespace has a copy of the mount.
        end = time.monotonic() + _PATIENCE
        while (
            any(any(_links(Path(f"/proc/{server}/fd"), "/dev/fuse")) for server in servers)
            and time.monotonic() < end
        ):
            time.sleep(0.01)


def _pulled(image: Image, form: str, environ: dict[str, str], scratch: Path) -> Mount:
    store, source = scratch / f"store-{form}", f"oci:{image.layout}:{TAG}"
    command = stacker_command(store, "--quiet", "pull", "--no-sync", "--form", form, source)
    done = subprocess.run(command, env=environ, cwd=ROOT, check=True, capture_output=True)
    image_id = done.stdout.decode().strip()
    target = scratch / "target"
    target.mkdir(exist_ok=True)
    command = stacker_command(
        store, *("--json", "mount", "--print-plan", "--driver", "overlay"), image_id, str(target)
    )
    done = subprocess.run(command, env=environ, cwd=ROOT, check=True, capture_output=True)
    layers = json.loads(done.stdout)["item"]["plan"]["layers"]
    return Mount(store, image_id, tuple(map(Path, layers)), target)


def _prepare_sources(scratch: Path, large: Mount, count: int) -> None:
    """Create the source files of the write actions, in memory."""
    shutil.copy(large.layers[0] / "large", scratch / "large")
    small = scratch / "small"
    for number in range(count):
        path = small / f"{number // 100:03}" / f"{number % 100:02}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"small file\n" * (1 + number % 700))
    archive = str(scratch / "small.tar")
    subprocess.run(["tar", "-cf", archive, "-C", str(scratch), "small"], check=True)
    shutil.rmtree(small)


def _servers(mount: Mount) -> list[int]:
    """Return the processes that hold a FUSE channel open, and have the target as an argument.

    Other FUSE servers of the machine start and end during a measurement.
    """
    argument = b"\0" + os.fsencode(mount.target) + b"\0"
    return [
        int(process.name)
        for process in Path("/proc").iterdir()
        if process.name.isdigit()
        and any(_links(process / "fd", "/dev/fuse"))
        and argument in _arguments(process)
    ]


def _arguments(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:  # the process ended
        return b""


def _links(directory: Path, target: str) -> Iterator[Path]:
    try:
        for link in directory.iterdir():
            if os.readlink(link) == target:  # noqa: PTH115 - the link may dangle
                yield link
    except OSError:  # the process ended
        return


def _proportional(pid: int) -> int:
    """Return a process's proportional set size (PSS) in bytes."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line[:4] == "Pss:")
