"""Measure verbs with almost no work, against an interpreter that does nothing."""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import figures
from benchmarks.figures import Figures
from benchmarks.forms import FORMS
from benchmarks.layout import TAG, Image
from benchmarks.peers import ROOT, environment, stacker_command
from benchmarks.process import Usage, measured

BARE = "python3 -c pass"
MANY = "mount of"
DRIVERS = ("overlay", "fuse")
LAYERS = 60


def compared(image: Image, many: Image, scratch: Path, *, repetitions: int) -> Iterator[Figures]:
    """Return a line of results for a bare interpreter and for each verb, alternating.

    :param many: an image of many layers, which is mounted in both forms and with both drivers.
    """
    store, target = scratch / "store", scratch / "target"
    target.mkdir()
    pull = _pull(store, image, "tree")
    commands = {
        BARE: (sys.executable, "-c", "pass"),
        "pull, all there": pull,
        "mount": stacker_command(store, "mount", _image_id(image), str(target)),
        "umount": stacker_command(store, "umount", str(target)),
    }
    environ = environment(scratch)
    run = functools.partial(measured, environment=environ, cwd=ROOT)
    run(pull)
    silent: dict[str, tuple[str, ...]] = {}
    for form, driver in itertools.product(FORMS, DRIVERS):
        other = scratch / f"store-{form}"
        name = f"{MANY} {len(many.layers)} layers, {form}, {driver}"
        commands[name] = stacker_command(other, "mount", "--driver", driver, TAG, str(target))
        silent[name] = stacker_command(other, "umount", str(target))
        run(_pull(other, many, form))
        run(commands[name])  # the first mount merges the layers
        run(silent[name])
    runs: dict[str, list[Usage]] = {name: [] for name in commands}
    for _ in range(repetitions):
        for name, command in commands.items():
            runs[name].append(run(command))
            if name in silent:
                run(silent[name])
    bare = figures.figures(runs[BARE])["wall"]["median"]
    for name, usages in runs.items():
        summed = figures.figures(usages)
        above = round(summed["wall"]["median"] - bare, 4)
        yield {"command": name, "above_bare": above, **summed}


def _pull(store: Path, image: Image, form: str) -> tuple[str, ...]:
    source = f"oci:{image.layout}:{TAG}"
    return stacker_command(store, "pull", "--quiet", "--no-sync", "--form", form, source)


def _image_id(image: Image) -> str:
    """Return the digest of the layout's only config, which is the image ID."""
    import json

    from benchmarks.layout import blob_path

    index = json.loads((image.layout / "index.json").read_text())
    manifest = json.loads(blob_path(image.layout, index["manifests"][0]["digest"]).read_text())
    return str(manifest["config"]["digest"])
