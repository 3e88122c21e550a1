"""Compare each figure with its target, as Markdown tables for docs/explanation/performance.md.

In: the results of all suites.  Out: Markdown.  A figure without a result has no row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.figures import Figures, of_suite
from benchmarks.forms import FORMS
from benchmarks.fuse import ON, OWN_EROFS, SERVER
from benchmarks.peers import FLOOR, STACKER
from benchmarks.registry import DOWNLOAD, LAYOUT, PULL, SKOPEO
from benchmarks.startup import BARE, MANY
from benchmarks.verify import (
    CHECKSUM,
    FAST,
    FIRST_EROFS,
    FULL,
    FULL_EROFS,
    HASH,
    READ,
    STREAMS,
    UNPACK,
)

OWN, PEER, KERNEL, OTHER = "stacker fuse", "fuse-overlayfs", "overlay", "stacker pyfuse3"
COLUMNS = {
    PEER: (OWN, PEER),
    f"{PEER} (stacker with pyfuse3)": (OTHER, PEER),
    f"{PEER} (writes by the server)": (SERVER, PEER),
    f"{PEER} (layers in the form `erofs`)": (OWN_EROFS, PEER),
    "the kernel's overlay": (OWN, KERNEL),
}
"""The columns of the table of mounts: whose time is divided by whose."""
RIVALS = ("umoci", "skopeo", "containerd")
OF_FLOOR = (
    ("mix", "tmpfs", "1.0"),
    ("node", "tmpfs", "1.0"),
    ("python-ml", "tmpfs", "0.8"),
    ("mix", "ext4", "1.0"),
)
_COMMANDS = {"pull, all there": "`pull` of an image in the store"}
_MEDIA = {"tmpfs": "tmpfs", "ext4": "ext4 in memory", "disk": "real disk"}
_ON = {"tmpfs": "tmpfs", "ext4": "ext4 in memory"}
FASTER = (("mix", "tmpfs", "6"), ("mix", "ext4", "3"))
OF_LAYOUT, OF_DOWNLOAD = 1.1, 0.15
"""The goal for a pull from a registry: multiples of a pull from a layout, and of a download."""
AS_ALLOWED, AS_SKOPEO = "1.0", "4"
GROWTH, MEMORY, ABOVE_BARE, MANY_ABOVE_BARE = "1.2", "250", "60", "80"
WRITTEN = {
    "write small files": "0.7",
    "write large file": "0.7",
    "git add": "0.7",
    "git status": "0.7",
}
"""The goals for writing to a mount."""
LOOKED_AT = {
    "find, cold": "0.3",
    "find, again": "0.5",
    "tar, cold": "0.4",
    "tar, again": "0.15",
    "read large, cold": "0.77",
    "read large, again": "",
    "read in parallel, cold": "",
    **{
        action + where: goal
        for where in ("", *(f", {medium}" for medium in ON.values()))
        for action, goal in WRITTEN.items()
    },
}
"""The goal for each action on a mount, as a multiple of fuse-overlayfs's time."""
ANSWERS = {"mount": "1.0", "mount of debian": "0.2"}
OF_SHA256, PER_ENTRY, OF_PULL = "0.8", "15", "1"
AGAIN = ("find, again", "tar, again")


def reached(documents: Sequence[Figures]) -> str:
    """Return the table of unpacking and start-up against their targets."""
    suites = {name: of_suite(documents, name) for name in ("throughput", "growth", "startup")}
    rows = [
        *_unpacking(suites["throughput"]),
        *_growing(suites["growth"]),
        *_memory([*suites["throughput"], *suites["growth"]]),
        *_starting(suites["startup"]),
    ]
    return table(["two cores, gzip, page cache warm", "goal", "measured"], rows)


def formed(documents: Sequence[Figures]) -> str:
    """Return the table of the forms of layers: seconds, and multiples of the baseline."""
    lines = {
        (line["corpus"], line["medium"], line["action"], line["stored"]): line["wall"]["median"]
        for line in of_suite(documents, "forms")
    }
    rows = []
    for corpus, medium, action in dict.fromkeys(key[:3] for key in lines if key[3] in FORMS):
        floor = lines.get((corpus, medium, action, FLOOR))
        cells = [
            f"{seconds:.2f}" + (f" ({seconds / floor:.2f} x)" if floor else "")
            for form in FORMS
            for seconds in [lines[corpus, medium, action, form]]
        ]
        last = f"{floor:.2f}" if floor else ""
        rows.append([corpus, _MEDIA.get(medium, medium), action, *cells, last])
    baseline = FLOOR.replace("|", r"\|")
    return table(["corpus", "medium", "action", "tree", "erofs", baseline], rows)


def pulled(documents: Sequence[Figures]) -> str:
    """Return the table of pulls from a registry against their targets, with the parts of each."""
    lines = [line for line in of_suite(documents, "registry") if "wall" in line]
    walls = {line["peer"]: line["wall"]["median"] for line in lines}
    rows = [*_pulling(walls)]
    rows += [[f"{peer}, seconds", "", f"{wall:.2f}"] for peer, wall in walls.items()]
    return table(["`mix`, gzip, from a registry on loopback", "goal", "measured"], rows)


def mounted(documents: Sequence[Figures]) -> str:
    """Return the tables of mounting a tree and reading it, against their targets."""
    lines = of_suite(documents, "fuse")
    walls = {(line["contender"], line["action"]): line["wall"]["median"] for line in lines}
    there = {contender for contender, _ in walls}
    columns = {name: pair for name, pair in COLUMNS.items() if set(pair) <= there}
    rows = []
    for action, aim in LOOKED_AT.items():
        if (OWN, action) not in walls:
            continue
        cells = [
            f"{walls[one, action] / walls[other, action]:.2f}"
            if {(one, action), (other, action)} <= walls.keys()
            else ""
            for one, other in columns.values()
        ]
        rows.append([action, aim, *cells])
    head = ["stacker's time divided by the time of", "goal", *columns]
    served = {line["action"]: line for line in lines if line["contender"] == OWN}
    others = [*_answering(served), *_remembering(walls), *_serving(served)]
    return f"{table(head, rows)}\n\n{table(['FUSE mounts', 'goal', 'measured'], others)}"


def verified(documents: Sequence[Figures]) -> str:
    """Return the table of `stacker verify` against its targets.

    There is a column for each corpus on tmpfs, and for each corpus on another medium.
    """
    lines = of_suite(documents, "verify")
    by_column: dict[str, dict[str, Figures]] = {}
    for line in lines:
        medium = line.get("medium", "tmpfs")
        name = line["corpus"] if medium == "tmpfs" else f"{line['corpus']}, {_MEDIA[medium]}"
        by_column.setdefault(name, {})[line["action"]] = line
    columns = [_verified(actions) for actions in by_column.values()]
    rows = [
        [name, aim, *(column[name] for column in columns)]
        for name, aim in VERIFIED.items()
        if any(column[name] for column in columns)  # older results lack some actions
    ]
    return table(["two cores, page cache warm", "goal", *by_column], rows)


VERIFIED = {
    "layers": "",
    "bytes per entry": "",
    "SHA-256 alone, MB/s": "",
    "SHA-256 with one thread for each layer, multiple of SHA-256 alone": "",
    "`verify --all`, MB/s": "",
    "`verify --all`, speed, multiple of SHA-256 alone": OF_SHA256,
    "the same, layers in the form `erofs`": OF_SHA256,
    "the same, first verification in the form `erofs`": "",
    "open, read and close each file, both cores, time as a multiple of SHA-256 alone": "",
    "`verify --all`, CPU time as a multiple of SHA-256 alone": "",
    "`verify --all --fast`, µs per entry": PER_ENTRY,
    "`verify --all --fast`, µs of CPU time per entry": "",
    "CRC-32 of each file, % of a pull's CPU time": OF_PULL,
    "load average before the runs": "",
}
"""The rows of `verified`, and the goal for each."""


def _verified(actions: Mapping[str, Figures]) -> dict[str, str]:
    line = actions[FULL]
    size, entries = line["bytes"], line["entries"]
    wall = {action: line["wall"]["median"] for action, line in actions.items()}
    hashed, full, fast = wall[HASH], wall[FULL], wall[FAST]
    cpu = {action: line["cpu"]["median"] for action, line in actions.items()}

    def times(action: str, what: str) -> str:
        if action not in wall:  # measured before there was this action
            return ""
        time = wall[action] / hashed
        return f"{1 / time if what == 'speed' else time:.2f}"

    cells = (
        f"{line['layers']}",
        f"{size / entries:,.0f}",
        f"{size / 1e6 / hashed:.0f}",
        times(STREAMS, "speed"),
        f"{size / 1e6 / full:.0f}",
        times(FULL, "speed"),
        times(FULL_EROFS, "speed"),
        times(FIRST_EROFS, "speed"),
        times(READ, "time"),
        f"{cpu[FULL] / cpu[HASH]:.1f}",
        f"{fast / entries * 1e6:.1f}",
        f"{cpu[FAST] / entries * 1e6:.1f}",
        f"{cpu[CHECKSUM] / cpu[UNPACK] * 100:.1f}",
        f"{line['load']:.1f}",
    )
    return dict(zip(VERIFIED, cells, strict=True))


def _answering(served: Mapping[str, Figures]) -> Iterator[list[str]]:
    for action, aim in ANSWERS.items():
        if action in served:
            line = served[action]
            what = f"seconds to mount a tree of {line['entries']:,} entries"
            yield [what, aim, f"{line['wall']['median']:.2f}"]


def _remembering(walls: Mapping[tuple[str, str], float]) -> Iterator[list[str]]:
    for action in AGAIN:
        if {(OWN, action), (KERNEL, action)} <= walls.keys():
            times = walls[OWN, action] / walls[KERNEL, action]
            yield [f"`{action}`, multiple of the kernel's overlay", "1.0", f"{times:.2f}"]


def _serving(served: Mapping[str, Figures]) -> Iterator[list[str]]:
    """Return the memory of a tree's server processes; shared pages count once."""
    if "mount" in served:
        entries = served["mount"]["entries"]
        most = max(served[action]["peak_rss"]["max"] for action in ("mount", *AGAIN))
        what = f"memory for {entries:,} entries, MB (goal: 1 KB per entry and 40 MB)"
        yield [what, f"{entries / 1e3 + 40:.0f}", f"{most / 1e6:.0f}"]


def stages(documents: Sequence[Figures]) -> str:
    """Return the seconds of each stage, as ``stacker bench`` measured them."""
    lines = of_suite(documents, "stages")
    names = [stage["stage"] for stage in lines[0]["stages"]]
    seconds = [{stage["stage"]: stage["seconds"] for stage in line["stages"]} for line in lines]
    rows = [[name, *(f"{each[name]:.3f}" for each in seconds)] for name in names]
    sums = [sum(each.values()) for each in seconds]
    rows.append(["sum of the stages", *(f"{each:.3f}" for each in sums)])
    rows.append(["half of the sum", *(f"{each / 2:.3f}" for each in sums)])
    rows.append(["whole pull", *(f"{line['pull_seconds']:.3f}" for line in lines)])
    rows.append(["limiting stage", *(line["limit"]["stage"] for line in lines)])
    names = [line["corpus"] for line in lines]
    columns = [
        f"{name} ({line['form']})" if line.get("form", "tree") != "tree" else name
        for name, line in zip(names, lines, strict=True)
    ]
    return table(["seconds", *columns], rows)


def _unpacking(lines: Sequence[Figures]) -> Iterator[list[str]]:
    walls = {
        (line["corpus"], line["medium"], line["peer"]): line["wall"]["median"]
        for line in lines
        if line["form"] == "gzip" and not line["sync"] and "wall" in line
    }

    def times(corpus: str, medium: str, peer: str) -> float:
        return float(walls[corpus, medium, STACKER.name] / walls[corpus, medium, peer])

    for corpus, medium, aim in OF_FLOOR:
        if (corpus, medium, FLOOR) in walls:
            what = f"`{corpus}` on {_ON[medium]}, multiple of `{FLOOR}`".replace("|", "\\|")
            yield [what, aim, f"{times(corpus, medium, FLOOR):.2f}"]
    for corpus, medium, aim in FASTER:
        rivals = [peer for peer in RIVALS if (corpus, medium, peer) in walls]
        found = ", ".join(f"{1 / times(corpus, medium, peer):.1f}" for peer in rivals)
        yield [f"`{corpus}` on {_ON[medium]}, speed, multiples of {', '.join(rivals)}", aim, found]


def _pulling(walls: Mapping[str, float]) -> Iterator[list[str]]:
    if {PULL, LAYOUT, DOWNLOAD} <= walls.keys():
        allowed = OF_LAYOUT * walls[LAYOUT] + OF_DOWNLOAD * walls[DOWNLOAD]
        what = f"pull, divided by {OF_LAYOUT} x layout + {OF_DOWNLOAD} x download"
        yield [what, AS_ALLOWED, f"{walls[PULL] / allowed:.2f}"]
    if {PULL, SKOPEO} <= walls.keys():
        yield [f"speed, multiple of {SKOPEO}", AS_SKOPEO, f"{walls[SKOPEO] / walls[PULL]:.1f}"]


def _growing(lines: Sequence[Figures]) -> Iterator[list[str]]:
    for kind, one in (("entries", "entry"), ("layers", "layer")):
        each = {
            line["n"]: line["wall"]["median"] / line["n"]
            for line in lines
            if line["corpus"] == kind and line["peer"] == STACKER.name
        }
        if each:
            least, most = min(each), max(each)
            what = f"time per {one} with {most:,} {kind}, multiple of that with {least:,}"
            yield [what, GROWTH, f"{each[most] / each[least]:.2f}"]


def _memory(lines: Sequence[Figures]) -> Iterator[list[str]]:
    peaks = [line["peak_rss"]["max"] for line in lines if line["peer"] == STACKER.name]
    yield ["peak memory of all processes, MB", MEMORY, f"{max(peaks) / 1e6:.0f}"]


def _starting(lines: Sequence[Figures]) -> Iterator[list[str]]:
    for line in lines:
        command = line["command"]
        if command != BARE:
            what = f"{_COMMANDS.get(command, f'`{command}`')}, ms more than `{BARE}`"
            aim = MANY_ABOVE_BARE if command.startswith(MANY) else ABOVE_BARE
            yield [what, aim, f"{line['above_bare'] * 1e3:.0f}"]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows below a header, as Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))
