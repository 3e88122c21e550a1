"""Turn results into a Markdown table and SVG plots.

    python -m benchmarks.report [--out DIR] [FILE...]

In: JSON of :mod:`benchmarks.run` (by default all of ``benchmarks/results``).  Out: ``table.md``,
and ``peers.svg``, ``ratios.svg``, ``entries.svg``, ``layers.svg``, ``fuse.svg``, ``containers.svg``
and ``fleet.svg`` where results exist.  With the default input, it also writes the tables in README
and docs.  Equal results give equal files.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import charts, figures, pages
from benchmarks.figures import Figures
from benchmarks.peers import EROFS, FLOOR, PEERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
_SHADES = ("#1b6ca8", "#9aa5b1", "#c8553d", "#d9a441", "#6b8f71", "#8e6c8a", "#b0a590", "#5fa8d3")
_NAMES = [*(peer.name for peer in PEERS if peer is not EROFS), EROFS.name]
_COLOURS = dict(zip(_NAMES, _SHADES, strict=True))
_ENGINES = {
    "containerd": _COLOURS["containerd"],
    "stacker, tree": _COLOURS["stacker"],
    "stacker, erofs": _COLOURS[EROFS.name],
}
_SECONDS = "seconds (median; lines: least to most)"
_MARKERS = dict(zip(_COLOURS, "osD^vPX*", strict=True))
_FUSE_PEER = "fuse-overlayfs"
_FLOOR_CELL = FLOOR.replace("|", r"\|")
_GROWTH = {"entries": "entries in one layer", "layers": "layers, a hundred files each"}


def tables(documents: Sequence[Figures]) -> str:
    """Return all results as Markdown, with the machine of each."""
    parts = [_origin(documents)]
    for suite, title, table in (
        ("throughput", "Unpacking", _throughput_table),
        ("growth", "Growth", _growth_table),
        ("startup", "Start-up", _startup_table),
        ("registry", "From a registry", _registry_table),
        ("fuse", "Mounted trees", _fuse_table),
        ("verify", "Verification", _verify_table),
        ("containers", "Processes", _containers_table),
    ):
        lines = figures.of_suite(documents, suite)
        if lines:
            parts.append(f"## {title}\n\n{table(lines)}")
    return "\n\n".join(parts) + "\n"


def _origin(documents: Sequence[Figures]) -> str:
    machines = dict.fromkeys(
        "{cpu}, {cores} cores, {gigabytes} GB; {system}, Linux {kernel}, Python {python}".format(
            **document["machine"], gigabytes=round(document["machine"]["memory"] / 1e9)
        )
        for document in documents
        if "machine" in document  # a simulation has none
    )
    versions = {
        name: text for document in documents for name, text in document.get("versions", {}).items()
    }
    shown = "\n".join(f"- {name}: {text}" for name, text in sorted(versions.items()))
    return "# Measured\n\nOn " + "; and on ".join(machines) + f".\n\n{shown}"


def _throughput_table(lines: Sequence[Figures]) -> str:
    head = ["corpus", "form", "medium", "peer", "wall s", "of baseline", "CPU s", "peak RSS MB"]
    floors = {figures.case(line): line for line in lines if line["peer"] == FLOOR}
    rows = [
        [line["corpus"], line["form"], _medium(line), line["peer"], *_costs(line, floors)]
        for line in lines
    ]
    return _markdown([*head, "MB/s", "entries/s", "removed s"], rows)


def _costs(line: Figures, floors: dict[tuple[object, ...], Figures]) -> list[str]:
    if "failed" in line:
        return ["cannot", *[""] * 6]
    floor = floors.get(figures.case(line), {})
    wall = line["wall"]["median"]
    ratio = f"{wall / floor['wall']['median']:.2f}" if "wall" in floor else ""
    return [
        _spread(line["wall"]),
        ratio,
        f"{line['cpu']['median']:.2f}",
        f"{line['peak_rss']['median'] / 1e6:.0f}",
        f"{line['mb_per_s']:.0f}",
        f"{line['entries_per_s']:.0f}",
        f"{line['removed']['median']:.2f}" if "removed" in line else "",
    ]


def _growth_table(lines: Sequence[Figures]) -> str:
    head = ["of", "number", "medium", "peer", "wall s", "µs each", "peak RSS MB"]
    rows = [
        [line["corpus"], str(line["n"]), line["medium"], line["peer"], *_each(line)]
        for line in lines
    ]
    return _markdown(head, rows)


def _each(line: Figures) -> list[str]:
    if "failed" in line:
        return ["cannot", "", ""]
    each = line["wall"]["median"] / line["n"] * 1e6
    return [_spread(line["wall"]), f"{each:.1f}", f"{line['peak_rss']['median'] / 1e6:.0f}"]


def _startup_table(lines: Sequence[Figures]) -> str:
    rows = [
        [
            line["command"],
            *(f"{line['wall'][kind] * 1e3:.0f}" for kind in ("median", "min", "max")),
            f"{line['above_bare'] * 1e3:.0f}",
        ]
        for line in lines
    ]
    return _markdown(["command", "median ms", "min", "max", "above bare Python"], rows)


def _containers_table(lines: Sequence[Figures]) -> str:
    rows = [
        [line["command"], *(f"{line['wall'][kind] * 1e3:.0f}" for kind in ("median", "min", "max"))]
        for line in lines
        if "failed" not in line
    ]
    return _markdown(["command", "median ms", "min", "max"], rows)


def _registry_table(lines: Sequence[Figures]) -> str:
    head = ["corpus", "form", "medium", "by", "wall s", "CPU s", "peak RSS MB", "MB/s compressed"]
    rows = [
        [line["corpus"], line["form"], _medium(line), line["peer"], *_fetching(line)]
        for line in lines
    ]
    return _markdown(head, rows)


def _fetching(line: Figures) -> list[str]:
    if "failed" in line:
        return ["cannot", *[""] * 3]
    wall, cpu, memory = line["wall"], line["cpu"]["median"], line["peak_rss"]["median"]
    speed = line["blob_bytes"] / 1e6 / wall["median"]
    return [_spread(wall), f"{cpu:.2f}", f"{memory / 1e6:.0f}", f"{speed:.0f}"]


def _fuse_table(lines: Sequence[Figures]) -> str:
    head = ["action", "by", "wall s", f"of {_FUSE_PEER}", "CPU s", "servers' memory MB"]
    peers = {line["action"]: line for line in lines if line["contender"] == _FUSE_PEER}
    rows = []
    for line in sorted(lines, key=lambda line: _actions(lines).index(line["action"])):
        peer = peers.get(line["action"])
        wall = line["wall"]["median"]
        rows.append(
            [
                line["action"],
                line["contender"],
                _spread(line["wall"]),
                f"{wall / peer['wall']['median']:.2f}" if peer else "",
                f"{line['cpu']['median']:.2f}",
                f"{line['peak_rss']['median'] / 1e6:.0f}",
            ]
        )
    return _markdown(head, rows)


def _verify_table(lines: Sequence[Figures]) -> str:
    head = [
        "corpus",
        "medium",
        "action",
        "wall s",
        "CPU s",
        "peak RSS MB",
        "MB/s",
        "µs/entry",
        "load",
    ]
    rows = [
        [
            line["corpus"],
            line.get("medium", "tmpfs"),
            line["action"],
            _spread(line["wall"]),
            f"{line['cpu']['median']:.2f}",
            f"{line['peak_rss']['median'] / 1e6:.0f}",
            f"{line['bytes'] / 1e6 / line['wall']['median']:.0f}",
            f"{line['wall']['median'] / line['entries'] * 1e6:.1f}",
            f"{line['load']:.1f}",
        ]
        for line in lines
    ]
    return _markdown(head, rows)


def _actions(lines: Sequence[Figures]) -> list[str]:
    return list(dict.fromkeys(line["action"] for line in lines))


def peers_plot(lines: Sequence[Figures]) -> Figure:
    """Draw the wall time of each peer: a group of bars for each corpus, a panel for each medium.

    The plot has the first compressed form only; the table has all of them.
    """
    form = lines[0]["form"]
    lines = [line for line in lines if line["form"] == form and "failed" not in line]
    media = list(dict.fromkeys(_medium(line) for line in lines))
    present = {line["peer"] for line in lines}
    groups = {
        each: len({line["corpus"] for line in lines if _medium(line) == each}) for each in media
    }
    widest = max(media, key=lambda each: groups[each])
    figure, panels = _rows({each: groups[each] for each in media if each != widest}, widest)
    for medium, panel in panels.items():
        chosen = [line for line in lines if _medium(line) == medium]
        colours = {peer: colour for peer, colour in _COLOURS.items() if peer in present}
        _bars(panel, chosen, "corpus", "peer", colours)
        panel.set_title(medium)
    figure.supylabel(_SECONDS, fontsize=9)
    panels[widest].legend(frameon=False, fontsize="small", ncols=2)
    return figure


def _rows(narrow: Mapping[str, int], widest: str) -> tuple[Figure, dict[str, Axes]]:
    """Return panels in the width of a README: the narrow ones side by side, and the widest below.

    :param narrow: the groups of bars of each panel of the first row.
    """
    pyplot = charts.begin()
    rows = 2 if narrow else 1
    figure = pyplot.figure(figsize=(charts.WIDTH, 2.6 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, 1)
    panels = {}
    if narrow:
        first = grid[0].subgridspec(1, len(narrow), width_ratios=[1 + n for n in narrow.values()])
        panels = {name: figure.add_subplot(first[n]) for n, name in enumerate(narrow)}
    panels[widest] = figure.add_subplot(grid[-1])
    _style(panels.values())
    return figure, panels


def _bars(
    panel: Axes, lines: Sequence[Figures], group: str, name: str, colours: Mapping[str, str]
) -> None:
    """Draw a group of bars for each `group` of lines, one for each `name` that has a colour."""
    groups = list(dict.fromkeys(line[group] for line in lines))
    width = 0.85 / len(colours)
    for index, (each, colour) in enumerate(colours.items()):
        chosen = [line for line in lines if line[name] == each]
        aside = (index - (len(colours) - 1) / 2) * width
        panel.bar(
            [groups.index(line[group]) + aside for line in chosen],
            [line["wall"]["median"] for line in chosen],
            width,
            yerr=_error_bars(chosen),
            error_kw={"linewidth": 0.8},
            label=each,
            color=colour,
        )
    panel.set_xticks(range(len(groups)), [text.replace(" ", "\n") for text in groups])


def growth_plot(lines: Sequence[Figures], kind: str) -> Figure:
    """Draw wall time against ``entries`` or ``layers``, with both axes logarithmic."""
    lines = [line for line in lines if line["corpus"] == kind and "failed" not in line]
    media = list(dict.fromkeys(line["medium"] for line in lines))
    figure, panels = _panels([5.0] * len(media))
    for panel, medium in zip(panels, media, strict=True):
        for peer in dict.fromkeys(line["peer"] for line in lines):
            chosen = [line for line in lines if (line["peer"], line["medium"]) == (peer, medium)]
            panel.errorbar(
                [line["n"] for line in chosen],
                [line["wall"]["median"] for line in chosen],
                yerr=_error_bars(chosen),
                label=peer,
                color=_COLOURS[peer],
                marker=_MARKERS[peer],
                markersize=5,
            )
        panel.set(xscale="log", yscale="log", xlabel=_GROWTH[kind], title=medium)
    panels[0].set_ylabel("seconds")
    panels[-1].legend(frameon=False, fontsize="small")
    return figure


def _panels(widths: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """Return panels in one row, of ``widths`` in inches."""
    pyplot = charts.begin()
    figure, axes = pyplot.subplots(
        1,
        len(widths),
        figsize=(sum(widths), 3.6),
        width_ratios=widths,
        squeeze=False,
        layout="constrained",
    )
    panels = list(axes[0])
    _style(panels)
    return figure, panels


def _style(panels: Iterable[Axes]) -> None:
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", linewidth=0.4, alpha=0.6)
        panel.set_axisbelow(True)


def _error_bars(lines: Iterable[Figures]) -> tuple[list[float], list[float]]:
    walls = [line["wall"] for line in lines]
    below = [wall["median"] - wall["min"] for wall in walls]
    return below, [wall["max"] - wall["median"] for wall in walls]


def _medium(line: Figures) -> str:
    shown = {"disk": f"real disk ({line['filesystem']})", "ext4": "ext4 in memory"}.get(
        line["medium"], str(line["medium"])
    )
    return f"{shown}, synced" if line["sync"] else shown


def _spread(wall: Figures) -> str:
    return f"{wall['median']:.2f} ({wall['min']:.2f} to {wall['max']:.2f})"


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line).replace(FLOOR, _FLOOR_CELL)} |" for line in lines)


def _save(figure: Figure, path: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def write_report(documents: Sequence[Figures], out: Path) -> list[Path]:
    """Write the table and the plots into the directory ``out``; return their paths."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(tables(documents))
    written = [out / "table.md"]
    if lines := figures.of_suite(documents, "throughput"):
        _save(peers_plot(lines), out / "peers.svg")
        written.append(out / "peers.svg")
        if chart := charts.unpacking_chart(lines, _COLOURS):
            _save(chart, out / "ratios.svg")
            written.append(out / "ratios.svg")
    for kind in _GROWTH if (lines := figures.of_suite(documents, "growth")) else ():
        _save(growth_plot(lines, kind), out / f"{kind}.svg")
        written.append(out / f"{kind}.svg")
    if lines := figures.of_suite(documents, "fuse"):
        _save(charts.fuse_chart(lines, _COLOURS["stacker"]), out / "fuse.svg")
        written.append(out / "fuse.svg")
    if lines := figures.of_suite(documents, "containers"):
        _save(charts.containers_chart(lines, _COLOURS["stacker"]), out / "containers.svg")
        written.append(out / "containers.svg")
    if lines := figures.of_suite(documents, "fleet"):
        _save(charts.fleet_chart(lines, _ENGINES), out / "fleet.svg")
        written.append(out / "fleet.svg")
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the table and the plots from results.")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR")
    arguments = parser.parse_args()
    files = arguments.files or sorted(RESULTS.glob("*.json"))
    documents = figures.latest([figures.read(file) for file in files])
    for path in write_report(documents, arguments.out):
        print(path)
    if arguments.out == RESULTS:
        for path in pages.rewrite(documents):
            print(path)


if __name__ == "__main__":
    main()
