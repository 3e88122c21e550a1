"""Simulate a fleet of machines that pull images: containerd's own store, and stacker's.

    python -m benchmarks.fleet [--nodes N...] [--out FILE] [RESULTS...]

In: the figures of one machine (:func:`engines` reads them from the results of the other suites) and
the :class:`~benchmarks.fleet_images.Assumptions`.  Out: JSON for :mod:`benchmarks.report`.  Equal
input gives equal output.  docs/explanation/scale.md says what the model omits.

A node stores the layers of the images that it runs.  In each event, it fetches and unpacks what it
needs and does not have.  containerd knows a blob by its digest and an unpacked layer by its chain
ID, so it unpacks an equal layer again on another base.  stacker knows a layer by its diff_id alone,
and neither fetches nor unpacks a layer that it has.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import figures
from benchmarks.figures import Figures, of_suite
from benchmarks.fleet_images import Assumptions, Catalogue, Flags, Stack
from benchmarks.peers import EROFS, FLOOR, STACKER

RESULTS = Path(__file__).parent / "results"
CONTAINERD: Final = "containerd"
NODES: Final = (1_000, 10_000, 100_000)
DEPLOY, ROLLOUT, REBUILD = "first deployment", "rollout", "new bases"
SCALE, LOSS = "more nodes", "loss of nodes"
DIRECT, MIRROR = "registry alone", "peer-to-peer mirror"
_CHUNK: Final = 5_000
"""Nodes in one product of matrices, which bounds the memory."""

_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Engine:
    """What unpacks and stores layers on a node, with the figures of one machine.

    :ivar seconds: wall time of an unpack, for each byte of a layer's tar.
    :ivar cpu: processor time of an unpack, for each byte of a layer's tar.
    :ivar occupied: bytes on disk for each byte of a layer's tar, without the blob.
    :ivar by_diff_id: layers are known by diff_id alone; otherwise by blob digest and chain ID.
    """

    name: str
    seconds: float
    cpu: float
    occupied: float
    by_diff_id: bool


class Keys(NamedTuple):
    """What images consist of: a row for each image, a column for each thing to be stored.

    :ivar members: which image has which column.
    :ivar names: the identity of each column.
    :ivar sizes: compressed bytes of each column.
    """

    members: Flags
    names: tuple[object, ...]
    sizes: _Floats


@dataclass(frozen=True, slots=True)
class Event:
    """What happens to a fleet: the images and their nodes before and after it.

    :ivar runs_before: which node runs which image before; a row for each node of `runs`.
    """

    name: str
    stacks_before: Sequence[Stack]
    runs_before: Flags
    stacks: Sequence[Stack]
    runs: Flags


class Missing(NamedTuple):
    """What each node needs and does not have.

    :ivar sums: compressed bytes for each node.
    :ivar largest: compressed bytes of the largest missing layer of each node.
    :ivar needed: compressed bytes that the nodes need which miss something.
    :ivar absent: compressed bytes of what at least one node misses and no node has.
    :ivar held: compressed bytes of all that a node has afterwards, for each node.
    """

    sums: _Floats
    largest: _Floats
    needed: float
    absent: float
    held: _Floats


def engines(documents: Sequence[Figures]) -> tuple[Engine, ...]:
    """Return containerd's own store and stacker's two forms, from measurements on a real disk.

    :raises KeyError: the results lack `mix` on disk for one of the programs.
    """
    lines = {
        line["peer"]: line
        for line in of_suite(documents, "throughput")
        if (line["corpus"], line["form"], line["medium"]) == ("mix", "gzip", "disk")
        if not line["sync"] and "wall" in line
    }
    occupied = {
        line["stored"]: line["disk_bytes"] / lines[STACKER.name]["bytes"]
        for line in of_suite(documents, "forms")
        if (line["corpus"], line["medium"]) == ("mix", "disk") and "disk_bytes" in line
    }
    rows = (
        (CONTAINERD, CONTAINERD, FLOOR, False),
        ("stacker, tree", STACKER.name, "tree", True),
        ("stacker, erofs", EROFS.name, "erofs", True),
    )
    return tuple(
        Engine(name, *_each_byte(lines[peer]), occupied[stored], by_diff_id)
        for name, peer, stored, by_diff_id in rows
    )


def _each_byte(line: Figures) -> tuple[float, float]:
    return line["wall"]["median"] / line["bytes"], line["cpu"]["median"] / line["bytes"]


def expansion(documents: Sequence[Figures]) -> float:
    """Return the bytes of a layer's tar for each byte of its blob, as the corpus `mix` has them."""
    line = next(each for each in of_suite(documents, "throughput") if each["corpus"] == "mix")
    return float(line["bytes"] / line["blob_bytes"])


def events(assumed: Assumptions, nodes: int) -> Iterator[Event]:
    """Return the events of a fleet's life, in their order."""
    catalogue = Catalogue(assumed)
    first, runs = catalogue.stacks(), catalogue.placed(nodes)
    yield Event(DEPLOY, first, np.zeros_like(runs), first, runs)
    second = catalogue.rolled_out(first)
    yield Event(ROLLOUT, first, runs, second, runs)
    third = catalogue.rebuilt(second)
    yield Event(REBUILD, second, runs, third, runs)
    added = catalogue.placed(int(nodes * assumed.more_nodes))
    grown = np.concatenate((runs, added))
    before = np.concatenate((runs, np.zeros_like(added)))
    yield Event(SCALE, third, before, third, grown)
    left = catalogue.moved(grown)
    yield Event(LOSS, third, grown[: len(left)], third, left)


def fetched_keys(stacks: Sequence[Stack], *, by_diff_id: bool) -> Keys:
    """Return what nodes fetch for images: diff_ids or blobs."""
    name = "diff_id" if by_diff_id else "blob"
    return _keys([[(getattr(layer, name), layer.size) for layer in stack] for stack in stacks])


def unpacked_keys(stacks: Sequence[Stack], *, by_diff_id: bool) -> Keys:
    """Return what nodes unpack for images: diff_ids, or chains of them."""
    if by_diff_id:
        return fetched_keys(stacks, by_diff_id=True)
    return _keys(
        [
            [
                (tuple(lower.diff_id for lower in stack[: number + 1]), layer.size)
                for number, layer in enumerate(stack)
            ]
            for stack in stacks
        ]
    )


def _keys(images: Sequence[Sequence[tuple[object, float]]]) -> Keys:
    sizes: dict[object, float] = {}
    for image in images:
        sizes |= dict(image)
    places = {name: number for number, name in enumerate(sizes)}
    members = np.zeros((len(images), len(sizes)), bool)
    for row, image in enumerate(images):
        members[row, [places[name] for name, _ in image]] = True
    return Keys(members, tuple(sizes), np.array(list(sizes.values())))


def missing(before: Keys, runs_before: Flags, after: Keys, runs: Flags) -> Missing:
    """Return what nodes miss when they change from some images to others."""
    places = {name: number for number, name in enumerate(before.names)}
    common = np.array([places.get(name, -1) for name in after.names])
    sums, largest, held = (np.zeros(len(runs)) for _ in range(3))
    is_held, is_missed = np.zeros(len(common), bool), np.zeros(len(common), bool)
    needed = 0.0
    for start in range(0, len(runs), _CHUNK):
        part = slice(start, start + _CHUNK)
        has = _columns(runs_before[part], before)[:, common] & (common >= 0)
        needs = _columns(runs[part], after)
        lacks = needs & ~has
        sums[part] = lacks @ after.sizes
        largest[part] = (lacks * after.sizes).max(axis=1)
        held[part] = needs @ after.sizes
        needed += float(held[part][sums[part] > 0].sum())
        is_held |= has.any(axis=0)
        is_missed |= lacks.any(axis=0)
    absent = float(after.sizes[is_missed & ~is_held].sum())
    return Missing(sums, largest, needed, absent, held)


def _columns(runs: Flags, keys: Keys) -> Flags:
    """Return which node needs which column."""
    product = runs.astype(np.float32) @ keys.members.astype(np.float32)
    found: Flags = product > 0
    return found


def shared(sums: _Floats, each: float, together: float) -> _Floats:
    """Return when each transfer ends if all begin at once and share a link equally.

    :param sums: bytes of each transfer.
    :param each: the most bytes a second of one transfer.
    :param together: the most bytes a second of the link.
    """
    order = np.argsort(sums)
    ordered = sums[order]
    running = np.arange(len(sums), 0, -1)
    steps = np.diff(ordered, prepend=0) / np.minimum(each, together / running)
    ends = np.empty_like(ordered)
    ends[order] = np.cumsum(steps)
    return ends


def fetching(lacked: Missing, assumed: Assumptions, *, is_mirrored: bool) -> tuple[float, _Floats]:
    """Return the bytes that the registry sends, and when each node has its blobs, in seconds.

    With a mirror, the registry sends a layer that no node has `copies` times, and nodes pass it on
    while they receive it.  A piece reaches all nodes in log2(nodes) steps.
    """
    if not is_mirrored:
        return float(lacked.sums.sum()), shared(
            lacked.sums, assumed.node_rate, assumed.registry_rate
        )
    sent = min(lacked.absent * assumed.copies, float(lacked.sums.sum()))
    first = sent / assumed.registry_rate + assumed.pieces * np.log2(max(len(lacked.sums), 1))
    rate = min(assumed.node_rate, assumed.peer_rate)
    return sent, np.where(lacked.sums > 0, first + lacked.sums / rate, 0)


def lacked(event: Event, *, by_diff_id: bool) -> tuple[Missing, Missing]:
    """Return what the nodes have to fetch in an event, and what they have to unpack."""
    before, after = event.stacks_before, event.stacks
    fetched, unpacked = (
        missing(
            keys(before, by_diff_id=by_diff_id),
            event.runs_before,
            keys(after, by_diff_id=by_diff_id),
            event.runs,
        )
        for keys in (fetched_keys, unpacked_keys)
    )
    return fetched, unpacked


def happened(
    event: Event,
    engine: Engine,
    lacks: tuple[Missing, Missing],
    assumed: Assumptions,
    times: float,
) -> Iterator[Figures]:
    """Return a line of results for an event, without and with a mirror.

    A node's time is that of two stages that work side by side, layer by layer: at most the longer
    sum and one layer more (Johnson 1954, flow shop of two machines).

    :param lacks: of `lacked`.
    :param times: bytes of a layer's tar for each byte of its blob.
    """
    fetched, unpacked = lacks
    busy = unpacked.sums * times * engine.seconds
    last = unpacked.largest * times * engine.seconds
    occupied = unpacked.held * times * engine.occupied + fetched.held
    for mirror in (DIRECT, MIRROR):
        sent, ends = fetching(fetched, assumed, is_mirrored=mirror == MIRROR)
        ready = np.maximum(ends, busy) + last
        yield {
            "event": event.name,
            "nodes": len(event.runs),
            "engine": engine.name,
            "mirror": mirror,
            "registry_bytes": round(sent),
            "last_pod": round(float(ready.max()), 2),
            "median_node": round(float(np.median(ready[ready > 0])), 2),
            "cpu_per_node": round(float(unpacked.sums.mean() * times * engine.cpu), 2),
            "disk_per_node": round(float(occupied.mean())),
            "found": round(1 - float(unpacked.sums.sum()) / unpacked.needed, 4),
        }


def simulated(
    documents: Sequence[Figures], assumed: Assumptions, nodes: Sequence[int]
) -> Iterator[Figures]:
    """Return a line of results for each number of nodes, event, engine and way to fetch."""
    found, times = engines(documents), expansion(documents)
    for number in nodes:
        for event in events(assumed, number):
            lacks = {known: lacked(event, by_diff_id=known) for known in (False, True)}
            for engine in found:
                for line in happened(event, engine, lacks[engine.by_diff_id], assumed, times):
                    yield {"fleet": number, **line}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Simulate a fleet that pulls images.")
    add = parser.add_argument
    add("results", nargs="*", type=Path, help="results with figures (default: the committed ones)")
    add("--nodes", nargs="+", type=int, default=list(NODES), metavar="N")
    add("--out", type=Path, default=RESULTS / "fleet.json", metavar="FILE")
    arguments = parser.parse_args(argv)
    paths = arguments.results or sorted(RESULTS.glob("*.json"))
    documents = figures.latest([figures.read(path) for path in paths if path != arguments.out])
    assumed = Assumptions()
    document: Figures = {
        "suite": "fleet",
        "assumptions": asdict(assumed),
        "engines": [asdict(engine) for engine in engines(documents)],
        "expansion": expansion(documents),
        "results": [],
    }
    for line in simulated(documents, assumed, arguments.nodes):
        document["results"].append(line)
        print(json.dumps(line))
    figures.write(arguments.out, document)


if __name__ == "__main__":
    main()
