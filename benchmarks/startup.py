"""Measure verbs with almost no work, against an interpreter that does nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import figures
from benchmarks.figures import Figures
from benchmarks.layout import TAG, Image
from benchmarks.peers import ROOT, environment, stacker_command
from benchmarks.process import Usage, measured

BARE = "python3 -c pass"


def compared(image: Image, scratch: Path, *, repetitions: int) -> Iterator[Figures]:
    """Return a line of results for a bare interpreter and for each verb, alternating."""
    store, target = scratch / "store", scratch / "target"
    target.mkdir()
    source = f"oci:{image.layout}:{TAG}"
    commands = {
        BARE: (sys.executable, "-c", "pass"),
        "pull, all there": stacker_command(store, "pull", "--quiet", "--no-sync", source),
        "mount": stacker_command(store, "mount", _image_id(image), str(target)),
        "umount": stacker_command(store, "umount", str(target)),
    }
    environ = environment(scratch)
    runs: dict[str, list[Usage]] = {name: [] for name in commands}
    measured(commands["pull, all there"], environment=environ, cwd=ROOT)  # pulls the image
    for _ in range(repetitions):
        for name, command in commands.items():
            runs[name].append(measured(command, environment=environ, cwd=ROOT))
    bare = figures.figures(runs[BARE])["wall"]["median"]
    for name, usages in runs.items():
        summed = figures.figures(usages)
        above = round(summed["wall"]["median"] - bare, 4)
        yield {"command": name, "above_bare": above, **summed}


def _image_id(image: Image) -> str:
    """Return the digest of the layout's only config, which is the image ID."""
    import json

    from benchmarks.layout import blob_path

    index = json.loads((image.layout / "index.json").read_text())
    manifest = json.loads(blob_path(image.layout, index["manifests"][0]["digest"]).read_text())
    return str(manifest["config"]["digest"])
