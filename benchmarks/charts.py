"""Draw how many times as long as a baseline each program takes.

Lines of results come in; figures with horizontal bars go out.  A program has one colour in all of
them.  The baseline is a vertical line at 1.  This module must not measure or read files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from benchmarks.peers import FLOOR

if TYPE_CHECKING:
    from types import ModuleType

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from benchmarks.figures import Figures

WIDTH: Final = 8.3  # inches: as wide as a README shows it, so that texts keep their size
_PER_BAR: Final = 0.21
_MEDIA: Final = {"tmpfs": "memory (tmpfs)", "disk": "real disk"}
_FLEET: Final = {
    "last pod, s": ("registry alone", "last_pod", 1),
    "with a mirror, s": ("peer-to-peer mirror", "last_pod", 1),
    "registry alone sends, TB": ("registry alone", "registry_bytes", 1e12),
}
"""By title: the line's mirror, the figure in it, and the figure's unit."""
_FUSE_PEER: Final = "fuse-overlayfs"
_OTHER_MOUNTS: Final = {
    "stacker fuse (server)": "#5a7fb0",
    "stacker fuse (erofs)": "#8fb3d9",
    "stacker pyfuse3": "#7a9cc6",
    "overlay": "#4a5568",
    "overlay (erofs)": "#8a94a6",
    _FUSE_PEER: "#e07a5f",
}


def unpacking_chart(lines: Sequence[Figures], colours: Mapping[str, str]) -> Figure | None:
    """Draw each program's time to unpack, memory beside the real disk.

    :param lines: of the suite ``throughput``; the corpora measured on both media are drawn.
    :param colours: the colour of each program, in the order of the bars.
    :returns: ``None`` if no corpus was measured on both media.
    """
    lines = [line for line in lines if "failed" not in line and not line["sync"]]
    form = lines[0]["form"]
    lines = [line for line in lines if line["form"] == form and line["medium"] in _MEDIA]
    by_medium = [{line["corpus"] for line in lines if line["medium"] == each} for each in _MEDIA]
    corpora = sorted(set.intersection(*by_medium))
    if not corpora:
        return None
    figure, panels = _grid(len(corpora), len(_MEDIA), bars=len(colours))
    for row, corpus in enumerate(corpora):
        for column, (medium, title) in enumerate(_MEDIA.items()):
            chosen = [x for x in lines if (x["corpus"], x["medium"]) == (corpus, medium)]
            panel = panels[row][column]
            _ratios(panel, {x["peer"]: x["wall"]["median"] for x in chosen}, FLOOR, colours)
            panel.set_title(f"{corpus}, {title}")
    figure.supxlabel(f"times as long as {FLOOR}, which verifies nothing", fontsize=9)
    return figure


def fuse_chart(lines: Sequence[Figures], stacker: str) -> Figure:
    """Draw the time of each action on a mount, the mount itself first.

    :param lines: of the suite ``fuse``.
    :param stacker: the colour of stacker.
    """
    there = {line["contender"] for line in lines}
    known = {"stacker fuse": stacker, **_OTHER_MOUNTS}
    colours = {name: colour for name, colour in known.items() if name in there}
    measured = dict.fromkeys(x["action"] for x in lines if x["contender"] == _FUSE_PEER)
    actions = list(measured)
    rows = -(-len(actions) // 2)
    figure, panels = _grid(rows, 2, bars=len(colours))
    for number, action in enumerate(actions):
        chosen = [line for line in lines if line["action"] == action]
        panel = panels[number // 2][number % 2]
        walls = {line["contender"]: line["wall"]["median"] for line in chosen}
        _ratios(panel, walls, _FUSE_PEER, colours)
        panel.set_title(f"{action} ({_seconds(walls[_FUSE_PEER])})")
    for number in range(len(actions), rows * 2):
        panels[number // 2][number % 2].set_axis_off()
    text = f"times as long as {_FUSE_PEER}, whose time is in brackets"
    figure.supxlabel(text, fontsize=9)
    return figure


def containers_chart(lines: Sequence[Figures], stacker: str) -> Figure:
    """Draw the time to run a process that does nothing.

    :param lines: of the suite ``containers``.
    :param stacker: the colour of stacker.
    """
    lines = [line for line in lines if "failed" not in line]
    figure, ((panel,),) = _grid(1, 1, bars=len(lines))
    places = range(len(lines), 0, -1)
    walls = [line["wall"]["median"] for line in lines]
    is_ours = [line["command"].lower().startswith(("stacker", "store")) for line in lines]
    panel.barh(places, walls, 0.75, color=[stacker if ours else "#9aa5b1" for ours in is_ours])
    for place, wall in zip(places, walls, strict=True):
        panel.text(wall, place, f" {_seconds(wall)}", va="center")
    panel.set_yticks(list(places), [line["command"] for line in lines])
    panel.tick_params(left=False)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.margins(x=0.18)
    panel.set_xlabel("seconds to run busybox's true (median)")
    return figure


def fleet_chart(lines: Sequence[Figures], colours: Mapping[str, str]) -> Figure:
    """Draw what the largest simulated fleet needs, a row for each event.

    :param lines: of the suite ``fleet``.
    :param colours: the colour of each engine, in the order of the bars.
    """
    most = max(line["fleet"] for line in lines)
    lines = [line for line in lines if line["fleet"] == most]
    events = list(dict.fromkeys(line["event"] for line in lines))
    figure, panels = _grid(len(events), len(_FLEET), bars=len(colours))
    for row, event in zip(panels, events, strict=True):
        for panel, (title, (mirror, key, unit)) in zip(row, _FLEET.items(), strict=True):
            values = {
                line["engine"]: line[key] / unit
                for line in lines
                if (line["event"], line["mirror"]) == (event, mirror)
            }
            _values(panel, values, colours)
            panel.set_title(f"{event}: {title}" if panel is row[0] else title)
            if panel is not row[0]:
                panel.set_yticks([])
    figure.supxlabel(f"simulation of {most:,} nodes", fontsize=9)
    return figure


def _values(panel: Axes, values: Mapping[str, float], colours: Mapping[str, str]) -> None:
    """Draw a bar with its value for each name, the first one on top."""
    places = range(len(values), 0, -1)
    panel.barh(places, list(values.values()), 0.75, color=[colours[name] for name in values])
    for place, value in zip(places, values.values(), strict=True):
        panel.text(value, place, f" {value:,.{0 if value >= 10 else 1}f}", va="center")
    panel.set_yticks(list(places), list(values))
    panel.tick_params(left=False)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.margins(x=0.25)


def begin() -> ModuleType:
    """Return matplotlib.pyplot with the settings of all figures, which make equal files equal."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "stacker", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    return pyplot


def _grid(rows: int, columns: int, *, bars: int) -> tuple[Figure, list[list[Axes]]]:
    pyplot = begin()
    height = rows * (0.55 + _PER_BAR * bars) + 0.3
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(WIDTH, height), squeeze=False, layout="constrained"
    )
    return figure, [list(row) for row in axes]


def _ratios(
    panel: Axes, walls: Mapping[str, float], baseline: str, colours: Mapping[str, str]
) -> None:
    """Draw a bar for each program that has a wall time, the first one on top."""
    names = [name for name in colours if name in walls]
    ratios = [walls[name] / walls[baseline] for name in names]
    places = range(len(names), 0, -1)
    panel.barh(places, ratios, 0.75, color=[colours[name] for name in names])
    for place, ratio in zip(places, ratios, strict=True):
        panel.text(ratio, place, f" {_times(ratio)}", va="center")
    panel.axvline(1, color="#333333", linewidth=0.8)
    panel.set_yticks(list(places), names)
    panel.tick_params(left=False)
    panel.spines[["top", "right", "left"]].set_visible(False)
    if max(ratios) / min(ratios) > 20:
        panel.set_xscale("log")
    panel.margins(x=0.18)


def _times(ratio: float) -> str:
    digits = 0 if ratio >= 20 else 1 if ratio >= 0.95 else 2
    return f"{ratio:.{digits}f} x"


def _seconds(wall: float) -> str:
    return f"{wall * 1e3:.0f} ms" if wall < 1 else f"{wall:.1f} s"
