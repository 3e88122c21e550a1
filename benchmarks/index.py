"""Measure the index of a layer in EROFS form: processor time and memory for each entry.

In: layers of more and more small files, a hundred in each directory.  Out: for each count and
action, microseconds of processor time and bytes of memory for each entry.  The memory is the peak
during the action, beyond what the process had before it.  The actions are those
of a pull (``apply`` parses the tar and fills inodes, ``write`` writes the image) and of a chain
(``load``, ``merge``, and ``write merged``).

Each count has its own process, because memory that was freed once would count as free.
"""

from __future__ import annotations

import io
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import synthetic
from benchmarks.figures import Figures
from benchmarks.peers import ROOT
from stacker.erofs.inodes import Inodes
from stacker.erofs.load import load_tree
from stacker.erofs.read import Image
from stacker.erofs.write import Tar, write_image
from stacker.layer.apply_index import apply_to_index
from stacker.layer.record import LayerRecord
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.stack.build_index import MergedInodes
from stacker.tar.reader import TarReader

ENTRIES = {"small": (1000, 3000), "full": (10_000, 100_000, 1_000_000)}
_CHUNK = 1 << 18
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")

Measure = Callable[[str, Callable[[], object]], None]


def compared(scratch: Path, *, size: str, repetitions: int) -> Iterator[Figures]:
    """Return a line of results for each count of entries and action."""
    for wanted in ENTRIES[size]:
        [layer] = synthetic.growing_entries(scratch, wanted)
        runs: dict[str, list[tuple[float, int]]] = {}
        for _ in range(repetitions):
            command = [sys.executable, "-m", "benchmarks.index", f"{layer.path}"]
            done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
            for line in done.stdout.splitlines():
                action, seconds, grown = line.split("\t")
                runs.setdefault(action, []).append((float(seconds), int(grown)))
        for action, mine in runs.items():
            spent = statistics.median(run[0] for run in mine)
            memory = statistics.median(run[1] for run in mine)
            yield {
                "entries": layer.entries,
                "action": action,
                "us_per_entry": round(spent / layer.entries * 1e6, 2),
                "bytes_per_entry": round(memory / layer.entries),
                "runs": mine,
            }


def main(path: Path) -> None:
    """Print seconds of processor time and bytes of memory for each action on one tar."""

    def measure(action: str, run: Callable[[], object]) -> None:
        _CLEAR.write_text("5")  # resets VmHWM (proc_pid_clear_refs(5))
        resident, started = _memory("VmRSS"), time.process_time()
        run()
        seconds = time.process_time() - started
        print(action, seconds, max(0, _memory("VmHWM") - resident), sep="\t")

    run_all(path, measure)


def run_all(path: Path, measure: Measure) -> None:
    """Run every action on one tar."""
    tars, pulled, chained = [Tar(path.stat().st_size)], Inodes(), Inodes()
    image, again = io.BytesIO(), io.BytesIO()
    done: list[tuple[int, LayerRecord]] = []
    read = TarReader(_chunks(path), what="layer")
    form = WhiteoutFormat.TRUSTED
    measure(
        "apply",
        lambda: done.append(apply_to_index(read, pulled, tar=1, whiteout_format=form)),
    )
    [(root, record)] = done
    measure("write", lambda: write_image(image, pulled, root, tars))
    merged, loaded = MergedInodes(chained), list[int]()
    source = Image(image.getvalue(), "layer")
    measure("load", lambda: loaded.append(load_tree(source, chained, tar=1)))
    measure("merge", lambda: merged.merge(loaded[0], record))
    measure("write merged", lambda: write_image(again, chained, merged.root, tars))


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _memory(name: str) -> int:
    [line] = [line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(Path(sys.argv[1]))
