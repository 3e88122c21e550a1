"""Compare the EROFS form with its targets, as a Markdown table for docs/explanation/performance.md.

In: the results of all suites.  Out: Markdown.  A figure without a result has no row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.aims import MANY_ABOVE_BARE, PEER, RIVALS, table
from benchmarks.containers import BY_CHROOT, BY_RUNC, LIBRARY, PODMAN, ROWS, RUNC
from benchmarks.figures import Figures, of_suite
from benchmarks.forms import ALONE, BLOCKS, REMOVE, TAR, UNPACK, WALK
from benchmarks.fuse import MOUNT, OWN_EROFS
from benchmarks.parts import PARTS
from benchmarks.peers import EROFS, FLOOR
from benchmarks.startup import BARE, MANY

CORPUS = "mix"
OF_FLOOR = {"disk": "0.2", "tmpfs": "0.95"}
_ON = {"disk": "on the real disk", "tmpfs": "on tmpfs"}
AS_RIVALS, OF_TREE, OF_PARTS = "8", "0.1", "1.25"
PER_ENTRY, BYTES = "8", "400"
READS = {WALK: "1.0", TAR: "1.0", BLOCKS: "1.0"}
READY = "0.1"
OF_PEER = {"find, cold": "0.3", "write small files": "0.7", "git add": "0.7"}
"""The goals for FUSE mounts, as multiples of fuse-overlayfs's time."""

_Seconds = Mapping[tuple[str, str, str], float]
"""Medians by medium, action and form."""


def reached(documents: Sequence[Figures]) -> str:
    """Return the table of the EROFS form against its targets."""
    seconds = {
        (line["medium"], line["action"], line["stored"]): line["wall"]["median"]
        for line in of_suite(documents, "forms")
        if line["corpus"] == CORPUS
    }
    rows = [
        *_unpacking(of_suite(documents, "throughput")),
        *_parts(seconds),
        *_of_tree(seconds),
        *_index(of_suite(documents, "index")),
        *_starting(of_suite(documents, "startup")),
        *_served(of_suite(documents, "fuse")),
    ]
    return table([f"form `erofs`, `{CORPUS}`, gzip, two cores", "goal", "measured"], rows)


def processes(documents: Sequence[Figures]) -> str:
    """Return the table of the suite ``containers`` against its goals, in milliseconds."""
    walls = {
        line["command"]: line["wall"]["median"] * 1e3
        for line in of_suite(documents, "containers")
        if "wall" in line
    }
    rows = [[command, f"{wall:.0f}", "", ""] for command, wall in walls.items()]
    for row in rows:
        row[2:] = _goal(row[0], walls)
    return table(["command", "median ms", "goal", "measured"], rows)


def _goal(command: str, walls: Mapping[str, float]) -> list[str]:
    """Return the goal for a command and what it reached, both as text."""
    wall = walls[command]
    if command == BY_RUNC:
        return [f"120 ms more than {RUNC}", f"{wall - walls[RUNC]:.0f} ms"]
    if command == BY_CHROOT:
        return ["90 ms more than Python", f"{wall - walls[BARE]:.0f} ms"]
    if command == LIBRARY.format(ROWS, "runc"):
        return [f"25 ms more than {RUNC}", f"{wall - walls[RUNC]:.0f} ms"]
    if command == PODMAN:
        times = ", ".join(f"{wall / walls[own]:.1f}" for own in (BY_RUNC, BY_CHROOT))
        return ["2 times as long as stacker run", f"{times} times (runc, chroot)"]
    return ["", ""]


def _unpacking(lines: Sequence[Figures]) -> Iterator[list[str]]:
    walls = {
        (line["medium"], line["peer"]): line["wall"]["median"]
        for line in lines
        if (line["corpus"], line["form"], line["sync"]) == (CORPUS, "gzip", False)
        if "wall" in line
    }
    for medium, aim in OF_FLOOR.items():
        if {(medium, EROFS.name), (medium, FLOOR)} <= walls.keys():
            own, floor = walls[medium, EROFS.name], walls[medium, FLOOR]
            what = f"`pull` {_ON[medium]}, multiple of `{FLOOR}`".replace("|", "\\|")
            yield [what, aim, f"{own / floor:.2f}"]
            rivals = [peer for peer in RIVALS if (medium, peer) in walls]
            found = ", ".join(f"{walls[medium, peer] / own:.1f}" for peer in rivals)
            if rivals:
                goal = AS_RIVALS if medium == "disk" else ""
                what = f"`pull` {_ON[medium]}, speed, multiples of {', '.join(rivals)}"
                yield [what, goal, found]


def _parts(seconds: _Seconds) -> Iterator[list[str]]:
    for medium, on in _ON.items():
        alone = {
            part: seconds[medium, part, ALONE] for part in PARTS if (medium, part, ALONE) in seconds
        }
        if alone:
            slowest = max(alone, key=lambda part: alone[part])
            times = seconds[medium, UNPACK, "erofs"] / alone[slowest]
            shown = ", ".join(f"{part} {wall:.2f} s" for part, wall in alone.items())
            yield [f"`pull` {on}, multiple of the slowest of {shown}", OF_PARTS, f"{times:.2f}"]


def _of_tree(seconds: _Seconds) -> Iterator[list[str]]:
    for medium, on in _ON.items():
        goals = {REMOVE: OF_TREE if medium == "disk" else "", **READS}
        for action, aim in goals.items():
            pair = [(medium, action, form) for form in ("erofs", "tree")]
            if set(pair) <= seconds.keys():
                own, tree = (seconds[each] for each in pair)
                yield [f"{action} {on}, multiple of the form `tree`", aim, f"{own / tree:.2f}"]


def _index(lines: Sequence[Figures]) -> Iterator[list[str]]:
    most = max((line["entries"] for line in lines), default=0)
    found = {line["action"]: line for line in lines if line["entries"] == most}
    if {"apply", "write"} <= found.keys():
        own = (found["apply"], found["write"])
        each = sum(line["us_per_entry"] for line in own)
        yield [f"index of {most:,} entries, µs for each", PER_ENTRY, f"{each:.1f}"]
        memory = sum(line["bytes_per_entry"] for line in own)
        yield [f"index of {most:,} entries, bytes of memory for each", BYTES, f"{memory:.0f}"]


def _starting(lines: Sequence[Figures]) -> Iterator[list[str]]:
    for line in lines:
        if line["command"].startswith(MANY) and "erofs" in line["command"]:
            what = f"{line['command']}, ms above an interpreter that does nothing"
            yield [what, MANY_ABOVE_BARE, f"{line['above_bare'] * 1e3:.0f}"]


def _served(lines: Sequence[Figures]) -> Iterator[list[str]]:
    own = {line["action"]: line for line in lines if line["contender"] == OWN_EROFS}
    peer = {line["action"]: line for line in lines if line["contender"] == PEER}
    if MOUNT in own:
        what = f"FUSE mount of {own[MOUNT]['entries']:,} entries, seconds"
        yield [what, READY, f"{own[MOUNT]['wall']['median']:.2f}"]
    for action, goal in OF_PEER.items():
        if action in own and action in peer:
            times = own[action]["wall"]["median"] / peer[action]["wall"]["median"]
            yield [f"FUSE, {action}, multiple of {PEER}", goal, f"{times:.2f}"]
