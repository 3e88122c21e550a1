"""The few figures that README shows, between two marks in it.

In: results of the throughput suite.  Out: a table of seconds, and how often each peer's are those
of stacker.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import Figures
from benchmarks.peers import PEERS, STACKER

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
_SHOWN = {"tmpfs": "in memory", "ext4": "on ext4"}


def summary(lines: Sequence[Figures]) -> str:
    """Give a table of all gzip corpora, a row for each and its medium."""
    lines = [
        line
        for line in lines
        if line["form"] == "gzip" and not line["sync"] and line["medium"] in _SHOWN
    ]
    present = {line["peer"] for line in lines}
    peers = [peer.name for peer in PEERS if peer.name in present]
    head = [
        "seconds to a root filesystem",
        *(name if name == STACKER.name else f"{name}".replace("|", "\\|") for name in peers),
    ]
    cases = dict.fromkeys((line["corpus"], line["medium"]) for line in lines)
    rows = [_row(lines, case, peers) for case in cases]
    table = [head, ["---", *["--:"] * len(peers)], *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in table)


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


def rewritten(text: str, table: str) -> str:
    """Put a table between the marks of a text.

    :raises ValueError: it has no marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README: got no {BEGIN} … {END}, want both")
    return f"{before}{begin}\n{table}\n{end}{after}"
