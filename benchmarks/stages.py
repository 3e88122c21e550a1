"""Measure the stages of a pull with ``stacker bench``."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks import corpora
from benchmarks.figures import Figures
from benchmarks.forms import FORMS
from benchmarks.layout import TAG
from benchmarks.peers import ROOT, environment, stacker_command

CORPORA = ("mix", "node", "python-ml")


def measured(cache: Path, scratch: Path, *, size: str, repetitions: int) -> Iterator[Figures]:
    """Return a line of results for each corpus and form: its name, and the document's item."""
    for name in CORPORA:
        image = corpora.image(name, "gzip", size=size, cache=cache)
        corpora.warm(image)
        source = f"oci:{image.layout}:{TAG}"
        for form in FORMS:
            words = ("--json", "bench", "--form", form, "--runs", str(repetitions), source)
            done = subprocess.run(
                stacker_command(scratch / "store", *words),
                env=environment(scratch),
                cwd=ROOT,
                check=True,
                capture_output=True,
            )
            yield {"corpus": name, **json.loads(done.stdout)["item"]}
