"""Measure the forms in which stacker stores layers, against ``igzip | tar``.

In: corpora and media.  Out: for each corpus, medium and form the :class:`Usage` of an unpack, of
the first mount, of reads of the mounted tree, of a later mount, and of the removal.  The baseline
has no mount: it reads the directories of the layers.  The form `ALONE` has the parts of an unpack.
"""

from __future__ import annotations

import os
import shlex
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
            for turn in range(repetitions):
                loads.append(os.getloadavg()[0])
                for form in _turned((*FORMS, FLOOR, ALONE), turn):
                    for action, usage in _once(form, image, medium):
                        runs.setdefault((form, action), []).append(usage)
            for (form, action), mine in runs.items():
                what = {"corpus": name, "medium": medium.name, "filesystem": medium.filesystem}
                yield {
                    **what,
                    "stored": form,
                    "action": action,
                    "entries": image.entries,
                    "load": max(loads),
                    **figures.figures(mine),
                }


def _turned(forms: tuple[str, ...], turn: int) -> tuple[str, ...]:
    first = turn % len(forms)
    return forms[first:] + forms[:first]


def _once(form: str, image: Image, medium: Medium) -> Iterator[tuple[str, Usage]]:
    with medium.empty_directory() as scratch:
        corpora.warm(image)
        medium.prepare(image.plain_bytes + image.blob_bytes)
        environ = environment(scratch)
        if form == FLOOR:
            yield from _baseline(_FLOOR, image, scratch, environ)
        elif form == ALONE:
            for part in PARTS:
                command = parts.command(part, image, scratch)
                yield part, measured(command, environment=environ, cwd=ROOT)
        else:
            yield from _stored(form, image, scratch, environ)


def _baseline(
    peer: Peer, image: Image, scratch: Path, environ: dict[str, str]
) -> Iterator[tuple[str, Usage]]:
    with peer.prepared(image, scratch) as task:
        yield UNPACK, measured(task.command, environment=environ, cwd=ROOT)
        yield from _read(scratch / "layers", scratch / "blocks", environ)
        yield REMOVE, measured(task.removal, environment=environ, cwd=ROOT)


def _stored(
    form: str, image: Image, scratch: Path, environ: dict[str, str]
) -> Iterator[tuple[str, Usage]]:
    store, target = scratch / "store", scratch / "target"
    target.mkdir()
    source = f"oci:{image.layout}:{TAG}"
    pull = stacker_command(store, "pull", "--quiet", "--no-sync", "--form", form, source)
    yield UNPACK, measured(pull, environment=environ, cwd=ROOT)
    mount = stacker_command(store, "mount", TAG, str(target))
    yield FIRST, measured(mount, environment=environ, cwd=ROOT)
    yield from _read(target, scratch / "blocks", environ)
    unmount = stacker_command(store, "umount", str(target))
    measured(unmount, environment=environ, cwd=ROOT)
    yield MOUNT, measured(mount, environment=environ, cwd=ROOT)
    measured(unmount, environment=environ, cwd=ROOT)
    remove = stacker_command(store, "rm", TAG)
    yield REMOVE, measured(remove, environment=environ, cwd=ROOT)


def _read(top: Path, blocks: Path, environ: dict[str, str]) -> Iterator[tuple[str, Usage]]:
    """List a tree twice, archive it, and read random blocks of it."""
    for action in (WALK, AGAIN):
        yield action, measured(("find", str(top)), environment=environ, cwd=ROOT)
    # GNU tar reads no contents if it writes to /dev/null itself.
    archive = f"tar -C {shlex.quote(str(top))} -cf - . | cat >/dev/null"
    yield TAR, measured(("sh", "-c", archive), environment=environ, cwd=ROOT)
    reads.choose(top, blocks)
    command = (sys.executable, "-m", "benchmarks.reads", str(blocks))
    yield BLOCKS, measured(command, environment=environ, cwd=ROOT)
