"""Measure the forms in which stacker stores layers, against ``igzip | tar``.

In: corpora and media.  Out: for each corpus, medium and form the :class:`Usage` of an unpack, of
the first mount, of reads of the mounted tree, of a later mount, and of the removal.  The line of an
unpack also has ``disk_bytes``, what its files occupy.  The baseline has no mount: it reads the
directories of the layers.  The form `ALONE` has the parts of an unpack.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import corpora, figures, parts, reads
from benchmarks.figures import Figures
from benchmarks.layout import TAG, Image
from benchmarks.parts import PARTS
from benchmarks.peers import FLOOR, PEERS, ROOT, Peer, environment, stacker_command
from benchmarks.process import Usage, measured
from benchmarks.scratch import Medium

FORMS = ("tree", "erofs")
ALONE = "alone"
"""The parts of an unpack without each other (:mod:`benchmarks.parts`)."""

UNPACK, FIRST, WALK, AGAIN = "unpack", "first mount", "list", "list again"
TAR, BLOCKS, MOUNT, REMOVE = "tar", "random 4 KiB reads", "mount again", "remove"
_FLOOR = next(peer for peer in PEERS if peer.name == FLOOR)


def compared(
    cache: Path,
    media: Sequence[Medium],
    names: Sequence[str],
    *,
    size: str,
    repetitions: int,
) -> Iterator[Figures]:
    """Return a line of results for each corpus, medium, form and action, alternating."""
    for medium in media:
        for name in names:
            image = corpora.image(name, "gzip", size=size, cache=cache)
            runs: dict[tuple[str, str], list[Usage]] = {}
            loads: list[float] = []
            occupied: dict[tuple[str, str], int] = {}
            for turn in range(repetitions):
                loads.append(os.getloadavg()[0])
                for form in _turned((*FORMS, FLOOR, ALONE), turn):
                    for action, usage, found in _once(form, image, medium):
                        runs.setdefault((form, action), []).append(usage)
                        if found is not None:
                            occupied[form, action] = found
            for (form, action), mine in runs.items():
                what = {"corpus": name, "medium": medium.name, "filesystem": medium.filesystem}
                line = {
                    **what,
                    "stored": form,
                    "action": action,
                    "entries": image.entries,
                    "load": max(loads),
                    **figures.figures(mine),
                }
                if (form, action) in occupied:
                    line["disk_bytes"] = occupied[form, action]
                yield line


def _turned(forms: tuple[str, ...], turn: int) -> tuple[str, ...]:
    first = turn % len(forms)
    return forms[first:] + forms[:first]


_Action = tuple[str, Usage, int | None]
"""A name, what it used, and the bytes that its files occupy, where that is known."""


def _once(form: str, image: Image, medium: Medium) -> Iterator[_Action]:
    with medium.empty_directory() as scratch:
        corpora.warm(image)
        medium.prepare(image.plain_bytes + image.blob_bytes)
        environ = environment(scratch)
        if form == FLOOR:
            yield from _baseline(_FLOOR, image, scratch, environ)
        elif form == ALONE:
            for part in PARTS:
                command = parts.command(part, image, scratch)
                yield part, measured(command, environment=environ, cwd=ROOT), None
        else:
            yield from _stored(form, image, scratch, environ)


def _baseline(
    peer: Peer, image: Image, scratch: Path, environ: dict[str, str]
) -> Iterator[_Action]:
    with peer.prepared(image, scratch) as task:
        usage = measured(task.command, environment=environ, cwd=ROOT)
        yield UNPACK, usage, _occupied(scratch / "layers")
        yield from _read(scratch / "layers", scratch / "blocks", environ)
        yield REMOVE, measured(task.removal, environment=environ, cwd=ROOT), None


def _stored(form: str, image: Image, scratch: Path, environ: dict[str, str]) -> Iterator[_Action]:
    store, target = scratch / "store", scratch / "target"
    target.mkdir()
    source = f"oci:{image.layout}:{TAG}"
    pull = stacker_command(store, "pull", "--quiet", "--no-sync", "--form", form, source)
    yield UNPACK, measured(pull, environment=environ, cwd=ROOT), _occupied(store)
    mount = stacker_command(store, "mount", TAG, str(target))
    yield FIRST, measured(mount, environment=environ, cwd=ROOT), None
    yield from _read(target, scratch / "blocks", environ)
    unmount = stacker_command(store, "umount", str(target))
    measured(unmount, environment=environ, cwd=ROOT)
    yield MOUNT, measured(mount, environment=environ, cwd=ROOT), None
    measured(unmount, environment=environ, cwd=ROOT)
    remove = stacker_command(store, "rm", TAG)
    yield REMOVE, measured(remove, environment=environ, cwd=ROOT), None


def _read(top: Path, blocks: Path, environ: dict[str, str]) -> Iterator[_Action]:
    """List a tree twice, archive it, and read random blocks of it."""
    for action in (WALK, AGAIN):
        yield action, measured(("find", str(top)), environment=environ, cwd=ROOT), None
    # GNU tar reads no contents if it writes to /dev/null itself.
    archive = f"tar -C {shlex.quote(str(top))} -cf - . | cat >/dev/null"
    yield TAR, measured(("sh", "-c", archive), environment=environ, cwd=ROOT), None
    reads.choose(top, blocks)
    command = (sys.executable, "-m", "benchmarks.reads", str(blocks))
    yield BLOCKS, measured(command, environment=environ, cwd=ROOT), None


def _occupied(top: Path) -> int:
    """Return the bytes that files and directories occupy below `top`, hard links once."""
    command = ("du", "--summarize", "--block-size=1", str(top))
    return int(subprocess.run(command, check=True, capture_output=True).stdout.split()[0])
