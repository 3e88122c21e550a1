"""The tables that README and docs show, each between two marks in its page.

In: results of all suites.  Out: the pages with tables of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import aims
from benchmarks.figures import Figures, of_suite
from benchmarks.peers import PEERS, STACKER

ROOT = Path(__file__).parent.parent
END = "<!-- measured: end -->"
_SHOWN = {"tmpfs": "in memory", "ext4": "on ext4"}


def summary(documents: Sequence[Figures]) -> str:
    """Give a table of all gzip corpora, a row for each and its medium."""
    lines = [
        line
        for line in of_suite(documents, "throughput")
        if line["form"] == "gzip" and not line["sync"] and line["medium"] in _SHOWN
    ]
    present = {line["peer"] for line in lines}
    peers = [peer.name for peer in PEERS if peer.name in present]
    head = ["seconds to a root filesystem", *(name.replace("|", "\\|") for name in peers)]
    cases = dict.fromkeys((line["corpus"], line["medium"]) for line in lines)
    return aims.table(head, [_row(lines, case, peers) for case in cases])


def _row(lines: Sequence[Figures], case: tuple[str, str], peers: Sequence[str]) -> list[str]:
    walls = {
        line["peer"]: line["wall"]["median"]
        for line in lines
        if (line["corpus"], line["medium"]) == case and "failed" not in line
    }
    own = walls[STACKER.name]
    corpus, medium = case
    cells = [
        f"{walls[peer]:.1f}" + ("" if peer == STACKER.name else f" ({walls[peer] / own:.1f} x)")
        if peer in walls
        else "-"
        for peer in peers
    ]
    return [f"{corpus}, {_SHOWN[medium]}", *cells]


TABLES: dict[str, tuple[tuple[str, str, Callable[[Sequence[Figures]], str]], ...]] = {
    "README.md": (("summary", "throughput", summary),),
    "docs/explanation/performance.md": (
        ("aims", "throughput", aims.reached),
        ("stages", "stages", aims.stages),
        ("registry", "registry", aims.pulled),
        ("mounts", "fuse", aims.mounted),
    ),
}
"""By page: a table's mark, the suite it cannot do without, and what makes it."""


def rewrite(documents: Sequence[Figures], root: Path = ROOT) -> list[Path]:
    """Put into all pages below `root` the tables that there are results for; return the pages."""
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
    """Put a table between the marks of a text.

    :raises ValueError: it has no such marks.
    """
    begin = f"<!-- measured: {mark} -->"
    before, found, rest = text.partition(begin)
    _, end, after = rest.partition(END)
    if not (found and end):
        raise ValueError(f"no place for a table: got no {begin} … {END}, want both")
    return f"{before}{begin}\n{table}\n{END}{after}"
