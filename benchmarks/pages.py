"""Write the tables of README and docs, each between two marks in its page.

In: the results of all suites.  Out: the pages with their tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import aims, targets
from benchmarks import fleet_tables as fleet
from benchmarks.figures import Figures, of_suite
from benchmarks.peers import PEERS, STACKER

ROOT = Path(__file__).parent.parent
END = "<!-- measured: end -->"
_MEDIA = {"tmpfs": "tmpfs", "ext4": "ext4 in memory", "disk": "real disk"}
_NUMBER = re.compile(r"\d+(?:\.\d+)+")


def summary(documents: Sequence[Figures]) -> str:
    """Return a table of the gzip corpora, a row for each corpus and medium."""
    lines = [
        line
        for line in of_suite(documents, "throughput")
        if line["form"] == "gzip" and line["medium"] in _MEDIA
    ]
    present = {line["peer"] for line in lines}
    peers = [peer.name for peer in PEERS if peer.name in present]
    head = ["corpus", "medium", *(name.replace("|", "\\|") for name in peers)]
    cases = dict.fromkeys(map(_case, lines))
    return aims.table(head, [_row(lines, case, peers) for case in sorted(cases, key=_order)])


def _case(line: Figures) -> tuple[str, str, bool]:
    return line["corpus"], line["medium"], line["sync"]


def _order(case: tuple[str, str, bool]) -> tuple[int, bool, str]:
    corpus, medium, is_synced = case
    return list(_MEDIA).index(medium), is_synced, corpus


def _row(lines: Sequence[Figures], case: tuple[str, str, bool], peers: Sequence[str]) -> list[str]:
    walls = {
        line["peer"]: line["wall"]["median"]
        for line in lines
        if _case(line) == case and "failed" not in line
    }
    own = walls[STACKER.name]
    corpus, medium, is_synced = case
    cells = [
        f"{walls[peer]:.1f}" + ("" if peer == STACKER.name else f" ({walls[peer] / own:.1f} x)")
        if peer in walls
        else "-"
        for peer in peers
    ]
    return [corpus, _MEDIA[medium] + (", synced" if is_synced else ""), *cells]


def origin(documents: Sequence[Figures]) -> str:
    """Return a table of the machines and of the versions of all programs.

    If there are several machines, each row names the suites that ran on its machine.  If the suite
    ``throughput`` ran on several machines, the row also says which cases ran on this one.
    """
    groups: dict[str, list[Figures]] = {}
    for document in documents:
        if "machine" in document:  # a simulation has none
            groups.setdefault(_machine(document), []).append(document)
    rows = []
    for machine, group in groups.items():
        suites = dict.fromkeys(document["suite"] for document in group)
        names = ", ".join(f"{suite}{_part(suite, group, documents)}" for suite in suites)
        of_suites = f" ({names})" if len(groups) > 1 else ""
        rows += [[f"machine{of_suites}", machine], [f"programs{of_suites}", _programs(group)]]
    return aims.table(["measured on", ""], rows)


def _part(suite: str, group: Sequence[Figures], documents: Sequence[Figures]) -> str:
    """Return which cases of a suite ran on a machine, if others ran on another machine."""
    lines, every = of_suite(group, suite), of_suite(documents, suite)
    if suite != "throughput" or len(lines) == len(every):
        return ""
    if 2 * len(lines) > len(every):
        return ": all other rows"
    cases = sorted(set(map(_case, lines)), key=_order)
    return ": " + ", ".join(f"{corpus} on {_MEDIA[medium]}" for corpus, medium, _ in cases)


def unpacking_origin(documents: Sequence[Figures]) -> str:
    """Return the table of `origin` for the results of the suite ``throughput`` alone."""
    return origin([document for document in documents if document["suite"] == "throughput"])


def _machine(document: Figures) -> str:
    gigabytes = round(document["machine"]["memory"] / 1e9)
    return (
        "{cpu}, {cores} cores, {gigabytes} GB of memory, {system}, Linux {kernel}, Python {python}"
    ).format(**document["machine"], gigabytes=gigabytes)


def _programs(documents: Sequence[Figures]) -> str:
    versions: dict[str, set[str]] = {}
    for document in documents:
        for name, text in document["versions"].items():
            versions.setdefault(name, set()).add((_NUMBER.search(text) or [text])[0])
    return ", ".join(f"{name} {' and '.join(sorted(versions[name]))}" for name in sorted(versions))


TABLES: dict[str, tuple[tuple[str, str, Callable[[Sequence[Figures]], str]], ...]] = {
    "README.md": (("summary", "throughput", summary), ("origin", "throughput", unpacking_origin)),
    "docs/explanation/performance.md": (
        ("origin", "throughput", origin),
        ("summary", "throughput", summary),
        ("aims", "throughput", aims.reached),
        ("stages", "stages", aims.stages),
        ("registry", "registry", aims.pulled),
        ("mounts", "fuse", aims.mounted),
        ("verified", "verify", aims.verified),
        ("forms", "forms", aims.formed),
        ("targets", "forms", targets.reached),
        ("processes", "containers", targets.processes),
    ),
    "docs/explanation/scale.md": (
        ("assumptions", "fleet", fleet.assumed),
        ("engines", "fleet", fleet.measured),
        ("fleet", "fleet", fleet.results),
    ),
}
"""By page: a table's mark, the suite that it needs, and the function that writes it."""


def rewrite(documents: Sequence[Figures], root: Path = ROOT) -> list[Path]:
    """Write the tables that have results into the pages below `root`; return the pages."""
    written = []
    for name, tables in TABLES.items():
        page = root / name
        text = page.read_text()
        for mark, suite, make in tables:
            if of_suite(documents, suite):
                text = marked(text, mark, make(documents))
        page.write_text(text)
        written.append(page)
    return written


def marked(text: str, mark: str, table: str) -> str:
    """Return `text` with a table between the two marks.

    :raises ValueError: the text has no such marks.
    """
    begin = f"<!-- measured: {mark} -->"
    before, found, rest = text.partition(begin)
    _, end, after = rest.partition(END)
    if not (found and end):
        raise ValueError(f"no marks for a table: got no {begin} … {END}, want both")
    return f"{before}{begin}\n{table}\n{END}{after}"
