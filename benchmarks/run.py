"""Measure stacker and its peers.

    python -m benchmarks.run SUITE [OPTION...]

SUITE is ``throughput`` (the corpora against all peers), ``growth`` (time against entries and
layers), ``stages`` (the time of each stage), ``startup`` (verbs with almost no work), ``registry``
(pulls over a network), ``fuse`` (reads of mounted trees), ``verify`` (`stacker verify` against
SHA-256), ``index`` (the index of a layer in EROFS form), ``forms`` (layers as trees and in EROFS
form, from the unpack to the removal) or ``containers`` (the start of a process).  Out: JSON, for
:mod:`benchmarks.report`.  Each round runs every peer once and starts with another peer, so that
other load on the machine affects all of them.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import (
    chroot,
    containers,
    corpora,
    figures,
    forms,
    fuse,
    index,
    machine,
    registry,
    stages,
    startup,
    synthetic,
    verify,
)
from benchmarks.compress import FORMS
from benchmarks.figures import Figures
from benchmarks.layout import Image
from benchmarks.peers import PEERS, ROOT, Peer, environment, peers, stacker_versions, synced
from benchmarks.process import FailedError, Usage, measured
from benchmarks.scratch import Medium, media
from benchmarks.tarball import LayerTar

RESULTS = Path(__file__).parent / "results"
ENTRIES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
LAYERS = (10, 30, 100, 300)
MEDIA = ["tmpfs", "ext4", "disk"]
SMALL_ENTRIES, SMALL_LAYERS = (1000, 3000), (3, 6)


def run_once(peer: Peer, image: Image, medium: Medium, *, sync: bool) -> tuple[Usage, ...]:
    """Unpack ``image`` once into a new directory, with its blobs in the page cache, and remove it.

    :returns: the usage of the command, and of the removal if the peer has one.
    :raises FailedError: the peer cannot do it.
    """
    with medium.empty_directory() as scratch, peer.prepared(image, scratch) as task:
        corpora.warm(image)
        medium.prepare(image.plain_bytes + image.blob_bytes)  # some tools keep blobs for a while
        command = synced(peer, task) if sync else task.command
        environ = environment(scratch)
        unpacked = measured(command, environment=environ, daemons=task.daemons, cwd=ROOT)
        if not task.removal:
            return (unpacked,)
        return unpacked, measured(task.removal, environment=environ, cwd=ROOT)


def alternating(
    peers: Sequence[Peer], once: Callable[[Peer], tuple[Usage, ...]], repetitions: int
) -> dict[str, list[tuple[Usage, ...]] | str]:
    """Return each peer's runs by its name, or its error."""
    runs: dict[str, list[tuple[Usage, ...]] | str] = {peer.name: [] for peer in peers}
    for turn in range(repetitions):
        first = turn % len(peers)
        for peer in [*peers[first:], *peers[:first]]:
            usages = runs[peer.name]
            if isinstance(usages, str):
                continue
            try:
                usages.append(once(peer))
                walls = " ".join(f"{usage.wall:8.2f} s" for usage in usages[-1])
                print(f"    {peer.name:15} {walls}", file=sys.stderr)
            except FailedError as error:
                runs[peer.name] = str(error)
                print(f"    {error}", file=sys.stderr)
    return runs


def compared(
    peers: Sequence[Peer],
    image: Image,
    what: Figures,
    medium: Medium,
    *,
    repetitions: int,
    sync: bool = False,
) -> Iterator[Figures]:
    """Return a line of results for each peer on one image."""
    what = {**what, "medium": medium.name, "filesystem": medium.filesystem, "sync": sync}
    print("  ".join(map(str, what.values())), file=sys.stderr)
    once = functools.partial(run_once, image=image, medium=medium, sync=sync)
    runs = alternating(peers, once, repetitions)
    for peer, usages in runs.items():
        line = {**what, "peer": peer}
        if isinstance(usages, str):
            yield {**line, "failed": usages.replace(str(medium.directory), "…")}
        else:
            summed = figures.figures([usage for usage, *_ in usages])
            line |= {**figures.rates(image, summed), **summed}
            if removals := [usage for _, *removal in usages for usage in removal]:
                line["removed"] = figures.figures(removals)["wall"]
            yield line


def throughput(arguments: argparse.Namespace) -> Iterator[Figures]:
    """Unpack every corpus in every form on every medium."""
    line = functools.partial(compared, arguments.peers, repetitions=arguments.repetitions)
    for medium in arguments.media:
        for name in arguments.corpora:
            for form in arguments.forms:
                image = corpora.image(name, form, size=arguments.size, cache=arguments.cache)
                for sync in arguments.sync if medium.is_disk else [False]:
                    what = {"corpus": name, "form": form}
                    yield from line(image, what, medium, sync=sync)


def growth(arguments: argparse.Namespace) -> Iterator[Figures]:
    """Unpack one layer of more and more entries, then more and more layers."""
    small = arguments.size == "small"
    line = functools.partial(compared, arguments.peers, repetitions=arguments.repetitions)
    kinds: dict[str, tuple[Callable[[Path, int], Iterator[LayerTar]], Sequence[int]]] = {
        "entries": (synthetic.growing_entries, SMALL_ENTRIES if small else ENTRIES),
        "layers": (synthetic.growing_layers, SMALL_LAYERS if small else LAYERS),
    }
    for medium in arguments.media:
        for kind, (recipe, counts) in kinds.items():
            for count in counts:
                with arguments.media[0].empty_directory() as directory:
                    make = functools.partial(_made, recipe=recipe, count=count)
                    image = corpora.grown(make, directory / "corpus")
                    what = {"corpus": kind, "n": count, "form": "gzip"}
                    yield from line(image, what, medium)


def _made(
    work: Path, recipe: Callable[[Path, int], Iterator[LayerTar]], count: int
) -> Iterator[LayerTar]:
    return recipe(work, count)


def start_up(arguments: argparse.Namespace) -> Iterator[Figures]:
    """Time verbs against a bare interpreter."""
    image = corpora.image("many-layers", "gzip", size=arguments.size, cache=arguments.cache)
    for medium in arguments.media[:1]:
        with medium.empty_directory() as scratch:
            make = functools.partial(_made, recipe=synthetic.growing_layers, count=startup.LAYERS)
            many = corpora.grown(make, scratch / "many")
            repetitions = 4 * arguments.repetitions
            yield from startup.compared(image, many, scratch, repetitions=repetitions)


def staged(arguments: argparse.Namespace) -> Iterator[Figures]:
    """Run ``stacker bench`` on the large corpora."""
    with arguments.media[0].empty_directory() as scratch:
        yield from stages.measured(
            arguments.cache, scratch, size=arguments.size, repetitions=arguments.repetitions
        )


def fetched(arguments: argparse.Namespace) -> Iterator[Figures]:
    """Pull ``mix`` from a registry on loopback, and from its layout."""
    image = corpora.image("mix", "gzip", size=arguments.size, cache=arguments.cache)
    medium, what = arguments.media[0], {"corpus": "mix", "form": "gzip"}
    with medium.empty_directory() as directory, registry.serving(image, directory) as host:
        peers = [peer for peer in registry.peers(host) if peer.is_installed()]
        yield from compared(peers, image, what, medium, repetitions=arguments.repetitions)


def mounted(arguments: argparse.Namespace) -> Iterator[Figures]:
    """List, read and write trees that are mounted in different ways."""
    yield from fuse.compared(
        arguments.cache,
        arguments.media,
        size=arguments.size,
        repetitions=arguments.repetitions,
        chosen=arguments.contenders,
        kinds=arguments.actions,
    )


def verified(arguments: argparse.Namespace) -> Iterator[Figures]:
    """Verify images in the store."""
    yield from verify.compared(
        arguments.cache, arguments.media, size=arguments.size, repetitions=arguments.repetitions
    )


def indexed(arguments: argparse.Namespace) -> Iterator[Figures]:
    """Write, load and merge indexes in memory."""
    with arguments.media[0].empty_directory() as scratch:
        yield from index.compared(scratch, size=arguments.size, repetitions=arguments.repetitions)


def formed(arguments: argparse.Namespace) -> Iterator[Figures]:
    """Unpack, list and remove layers in each form."""
    yield from forms.compared(
        arguments.cache,
        arguments.media,
        arguments.corpora,
        size=arguments.size,
        repetitions=arguments.repetitions,
    )


def started(arguments: argparse.Namespace) -> Iterator[Figures]:
    """Start processes in a small image."""
    rows = 3 if arguments.size == "small" else containers.ROWS
    with arguments.media[0].empty_directory() as scratch:
        repetitions = 4 * arguments.repetitions
        yield from containers.compared(scratch, repetitions=repetitions, rows=rows)


SUITES: dict[str, Callable[[argparse.Namespace], Iterator[Figures]]] = {
    "throughput": throughput,
    "growth": growth,
    "stages": staged,
    "startup": start_up,
    "registry": fetched,
    "fuse": mounted,
    "verify": verified,
    "index": indexed,
    "forms": formed,
    "containers": started,
}


def main(argv: Sequence[str] | None = None) -> None:
    os.umask(0o022)
    arguments = _arguments(argv)
    document: Figures = {
        "suite": arguments.suite,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "size": arguments.size,
        "machine": machine.described(),
        "versions": stacker_versions(),
        "results": [],
    }
    for peer in arguments.peers:
        document["versions"] |= peer.versions()
    if arguments.suite == "registry":
        document["versions"] |= registry.versions()
    out = arguments.out or RESULTS / f"{arguments.suite}.json"
    for line in SUITES[arguments.suite](arguments):
        document["results"].append(line)
        figures.write(out, document)  # after every line: a suite may take hours
    print(out)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    known = {peer.name: peer for peer in PEERS}
    parser = argparse.ArgumentParser(description="Measure stacker against its peers.")
    add = parser.add_argument
    add("suite", choices=list(SUITES))
    add("--size", choices=sorted(corpora.RECIPES), default="full")
    add("--corpora", nargs="+", choices=corpora.NAMES, default=list(corpora.NAMES))
    add("--forms", nargs="+", choices=list(FORMS), default=list(FORMS))
    add(
        "--media",
        nargs="+",
        choices=MEDIA,
        default=MEDIA,
        help="media to unpack to; ext4 is a new filesystem for each run",
    )
    add(
        "--sync",
        nargs="+",
        choices=["no", "yes"],
        default=["no", "yes"],
        help="flush to disk before a run ends",
    )
    add(
        "--peers",
        nargs="+",
        choices=list(known),
        help="peers to measure (default: those installed)",
    )
    add(
        "--contenders",
        nargs="+",
        choices=[each.name for each in fuse.CONTENDERS],
        default=[],
        help="ways to mount in the benchmark fuse (default: those installed)",
    )
    add(
        "--actions",
        nargs="+",
        choices=fuse.KINDS,
        default=fuse.KINDS,
        help="kinds of actions in the benchmark fuse",
    )
    add("--repetitions", type=int, default=5, metavar="N")
    add("--cache", type=Path, default=corpora.CACHE, metavar="DIR", help="cache of the corpora")
    add(
        "--disk",
        type=Path,
        metavar="DIR",
        help="directory on disk to unpack to (default: the cache)",
    )
    add("--out", type=Path, metavar="FILE", help="results (default: benchmarks/results/SUITE.json)")
    add("--root", type=Path, metavar="DIR", help="root filesystem in which the other tools run")
    arguments = parser.parse_args(argv)
    places = media(arguments.disk or arguments.cache)
    arguments.cache = arguments.cache.absolute()
    arguments.media = [places[name] for name in arguments.media]
    arguments.sync = [choice == "yes" for choice in arguments.sync]
    if arguments.root:
        needed = [arguments.cache, *(medium.directory for medium in arguments.media)]
        within = chroot.enter(arguments.root.absolute(), [each.absolute() for each in needed])
        known = {peer.name: peer for peer in peers(within)}
    chosen = [known[name] for name in arguments.peers or known]
    arguments.peers = [peer for peer in chosen if arguments.peers or peer.is_installed()]
    return arguments


if __name__ == "__main__":
    main()
