"""Layers to push, and what skopeo and stacker say about a push."""

from __future__ import annotations

import json
import random
import subprocess
from typing import Any, Final

from tests.support.command import conforming
from tests.support.tars import dir, file, symlink, tar, whiteout  # noqa: A004 - as in tars

_LARGE: Final = random.Random(1).randbytes(20_000_000)  # more than two chunks of an upload
LAYERS: Final = [
    tar(dir("d/"), file("d/a", b"1"), file("large", _LARGE), symlink("l", "d")),
    tar(file("b", b"2" * 100_000), whiteout("d/a")),
]


def inspect(*words: str) -> dict[str, Any]:
    """Return skopeo's description of an image in a registry on loopback, or of files."""
    command = ["skopeo", "inspect", "--tls-verify=false", *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def events(output: str) -> list[dict[str, Any]]:
    """Return the JSON documents of a command, one for each line, checked against the schema."""
    return [conforming(json.loads(line)) for line in output.splitlines()]
