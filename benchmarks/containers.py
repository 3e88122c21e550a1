"""Measure the start of a process in an image, against OCI runtimes and podman.

In: an empty scratch directory.  Out: a line of results for each way to run busybox's ``true``.  The
image is unpacked before, and each way has a writable root filesystem and no network.  ``runc run``
has a bundle that `stacker bundle` has prepared.  Each round runs every way once.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from benchmarks import figures
from benchmarks.figures import Figures
from benchmarks.peers import ROOT, environment, stacker_command
from benchmarks.process import FailedError, Usage, measured
from benchmarks.startup import BARE

RUNC, PODMAN = "runc run, prepared bundle", "podman run --rm"
BY_RUNC, BY_CHROOT = "stacker run --runtime runc", "stacker run --runtime chroot"
LIBRARY: Final = "Store.run, {} in a row, {}"
ROWS: Final = 100
NAME: Final = "bench:1.0"
COMMAND: Final = ("/bin/busybox", "true")
_LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
"""podman's default limits can exceed those of the machine."""
_IN_A_ROW: Final = """\
import json, sys, time
from stacker import Store
store, seconds = Store.open(sys.argv[1]), []
for _ in range(int(sys.argv[3])):
    began = time.perf_counter()
    done = store.run(sys.argv[4], sys.argv[5:], runtime=sys.argv[2])
    seconds.append(time.perf_counter() - began)
    assert done.exit_code == 0
print(json.dumps(seconds))
"""


def compared(scratch: Path, *, repetitions: int, rows: int = ROWS) -> Iterator[Figures]:
    """Return a line of results for each way to run a process.

    :param rows: containers in one process through the library.
    """
    environ = environment(scratch)
    prepared = functools.partial(subprocess.run, check=True, env=environ, cwd=ROOT)
    silently = functools.partial(prepared, stdout=subprocess.DEVNULL)
    store, bundle = scratch / "store", scratch / "bundle"
    demo = (sys.executable, "scripts/demo-image", shutil.which("busybox") or "busybox")
    silently([*demo, str(scratch / "image"), NAME])
    silently(stacker_command(store, "pull", "--sync", "--quiet", f"oci:{scratch / 'image'}:{NAME}"))
    silently(stacker_command(store, "bundle", NAME, str(bundle), *COMMAND))
    try:
        ways = {**_stacker(store), **_runc(bundle), **_podman(scratch, environ)}
        yield from _summed(_alternating(ways, environ, repetitions))
        for runtime in ("runc", "chroot"):
            command = [sys.executable, "-c", _IN_A_ROW, str(store), runtime, str(rows), NAME]
            done = prepared([*command, *COMMAND], stdout=subprocess.PIPE)
            usages = [Usage(each, 0, 0) for each in json.loads(done.stdout)]
            yield {"command": LIBRARY.format(rows, runtime), **figures.figures(usages)}
    finally:
        silently(stacker_command(store, "bundle", "rm", str(bundle)))


def _stacker(store: Path) -> dict[str, Callable[[], tuple[str, ...]]]:
    run = functools.partial(stacker_command, store, "run", "--runtime")
    return {
        BARE: lambda: (sys.executable, "-c", "pass"),
        BY_CHROOT: lambda: run("chroot", NAME, *COMMAND),
        BY_RUNC: lambda: run("runc", NAME, *COMMAND),
    }


def _runc(bundle: Path) -> dict[str, Callable[[], tuple[str, ...]]]:
    words = ("runc", "run", "--bundle", str(bundle))
    return {RUNC: lambda: (*words, f"bench-{time.monotonic_ns()}")}


def _podman(scratch: Path, environ: Mapping[str, str]) -> dict[str, Callable[[], tuple[str, ...]]]:
    """Return podman's command, after it has unpacked the image; nothing without podman."""
    if shutil.which("podman") is None:
        return {}
    own = ("--root", str(scratch / "podman"), "--runroot", str(scratch / "podman-run"))
    podman = ("podman", *own, "--storage-driver=overlay", "--cgroup-manager=cgroupfs")
    pull = ("env", "-C", str(scratch), *podman, "pull", "--quiet", f"oci:image:{NAME}")
    done = subprocess.run(pull, check=True, env=environ, capture_output=True, text=True)
    image = done.stdout.split()[-1]
    options = ("--runtime=runc", "run", "--rm", "--network=none", *_LIMITS)
    return {PODMAN: lambda: (*podman, *options, image, *COMMAND)}


def _alternating(
    ways: Mapping[str, Callable[[], tuple[str, ...]]], environ: Mapping[str, str], repetitions: int
) -> dict[str, list[Usage] | str]:
    """Return the runs of each way, or its error."""
    runs: dict[str, list[Usage] | str] = {name: [] for name in ways}
    for _ in range(repetitions):
        for name, command in ways.items():
            usages = runs[name]
            if isinstance(usages, str):
                continue
            try:
                usages.append(measured(command(), environment=environ, cwd=ROOT))
            except FailedError as error:
                runs[name] = str(error)
                print(f"    {name}: {error}", file=sys.stderr)
    return runs


def _summed(runs: Mapping[str, list[Usage] | str]) -> Iterator[Figures]:
    for name, usages in runs.items():
        line = {"command": name, "load": round(os.getloadavg()[0], 1)}
        if isinstance(usages, str):
            yield {**line, "failed": usages}
        else:
            yield {**line, **figures.figures(usages)}
